import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startLibvirtd } from '#cli/host/libvirtd.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { silentLog as log } from '#kernel/log.js';
import type { Scope } from '#kernel/scope.js';
import { createCa, issueCertificate, keyPem } from '#kernel/security/ca.js';
import { findDescendant } from '../kernel/libvirt/daemon.js';

/** Of this process alone, among tests that run beside it. */
const net = `10.213.${process.pid % 250}`;
const [here, there] = [`${net}.1`, `${net}.2`];
const [ours, theirs] = [`vsh${process.pid}`, `vsn${process.pid}`];
const tlsPort = 16_514;

const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });
const cacheDir = join(defaultCacheDirectory(), 'libvirt');

/**
 * Two libvirtds, each in a network namespace of its own: that of this host, by its socket, and another that
 * is reached by TLS over a cable which can be pulled.
 */
export async function startTwoHosts(directory: string, scope: Scope) {
  const pki = join(directory, 'pki');
  const ca = await createCa('CN=Test CA');
  const keyType = 'rsa'; // libvirtd insists on key encipherment
  const server = { subject: 'CN=north', usage: 'server', hosts: [there], keyType } as const;
  const client = { subject: 'CN=vsite', usage: 'client', keyType } as const;
  const [served, asked] = [await issueCertificate(ca, server), await issueCertificate(ca, client)];
  await mkdir(pki, { recursive: true });
  const files = {
    'cacert.pem': ca.certificate.toString(),
    'clientcert.pem': asked.certificate.toString(),
    'clientkey.pem': keyPem(asked.key),
    'server.pem': served.certificate.toString(),
    'server.key': keyPem(served.key),
  };
  for (const [name, text] of Object.entries(files)) await writeFile(join(pki, name), text);
  const extraConfig = [
    'listen_tls = 1',
    `tls_port = "${tlsPort}"`,
    'auth_tls = "none"',
    `ca_file = "${join(pki, 'cacert.pem')}"`,
    `cert_file = "${join(pki, 'server.pem')}"`,
    `key_file = "${join(pki, 'server.key')}"`,
    'tls_allowed_dn_list = ["*CN=vsite*"]',
  ];
  const [local, north] = await Promise.all([
    startLibvirtd({ stateDir: join(directory, 'a'), cacheDir, log }),
    startLibvirtd({ stateDir: join(directory, 'b'), cacheDir, log, listen: true, extraConfig }),
  ]);
  scope.defer(async () => {
    await Promise.all([local.stop(), north.stop()]);
  });
  const pid = await findDescendant(north.pid!, 'libvirtd');
  const inside = (...args: string[]): unknown =>
    execFileSync('nsenter', ['-t', String(pid), '-n', 'ip', ...args]);
  ip('link', 'add', ours, 'type', 'veth', 'peer', 'name', theirs, 'netns', String(pid));
  scope.defer(() => {
    execFileSync('ip', ['link', 'del', ours]);
  });
  ip('addr', 'add', `${here}/30`, 'dev', ours);
  ip('link', 'set', ours, 'up');
  inside('addr', 'add', `${there}/30`, 'dev', theirs);
  inside('link', 'set', theirs, 'up');
  return {
    local: local.uri('qemu'),
    north: `qemu+tls://${there}:${tlsPort}/system?pkipath=${pki}`,
    /** By its socket, past the cable. */
    virsh: (...args: string[]): string =>
      execFileSync('virsh', ['-q', '-c', north.uri('qemu'), ...args], { encoding: 'utf8' }),
    pull: () => void ip('link', 'set', ours, 'down'),
    plug: () => void ip('link', 'set', ours, 'up'),
    libvirtd: pid,
  };
}
