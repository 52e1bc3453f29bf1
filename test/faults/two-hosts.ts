import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { startLibvirtd } from '#cli/host/libvirtd.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { silentLog as log } from '#kernel/log.js';
import type { Scope } from '#kernel/scope.js';
import { findDescendant } from '../kernel/libvirt/daemon.js';
import { writePki } from '../kernel/libvirt/pki.js';

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
  await writePki(pki, there);
  const extraConfig = [
    'listen_tls = 1',
    `tls_port = "${tlsPort}"`,
    'auth_tls = "none"',
    `ca_file = "${join(pki, 'cacert.pem')}"`,
    `cert_file = "${join(pki, 'server.pem')}"`,
    `key_file = "${join(pki, 'server.key')}"`,
    'tls_allowed_dn_list = ["*CN=vsite*"]',
  ];
  const startNorth = () =>
    startLibvirtd({ stateDir: join(directory, 'b'), cacheDir, log, listen: true, extraConfig });
  const [local, first] = await Promise.all([
    startLibvirtd({ stateDir: join(directory, 'a'), cacheDir, log }),
    startNorth(),
  ]);
  let north = first;
  scope.defer(async () => {
    await Promise.all([local.stop(), north.stop()]);
  });
  let pid = 0;
  /** In the namespaces of the other host. */
  const inside = (kind: 'net' | 'mount', ...args: string[]): string => {
    const which = kind === 'net' ? '-n' : '-m';
    return execFileSync('nsenter', ['-t', String(pid), which, ...args], { encoding: 'utf8' });
  };
  const connect = async (): Promise<void> => {
    pid = await findDescendant(north.pid!, 'libvirtd');
    ip('link', 'add', ours, 'type', 'veth', 'peer', 'name', theirs, 'netns', String(pid));
    ip('addr', 'add', `${here}/30`, 'dev', ours);
    ip('link', 'set', ours, 'up');
    inside('net', 'ip', 'addr', 'add', `${there}/30`, 'dev', theirs);
    inside('net', 'ip', 'link', 'set', theirs, 'up');
  };
  await connect();
  scope.defer(() => {
    execFileSync('ip', ['link', 'del', ours]);
  });
  const shape = ['qdisc', 'replace', 'dev', ours, 'root'];
  return {
    addresses: { here, there },
    local: local.uri('qemu'),
    /** Of its containers. */
    northContainers: `lxc+tls://${there}:${tlsPort}/system?pkipath=${pki}`,
    /** Past the cable. */
    northSocket: north.socketPath,
    north: `qemu+tls://${there}:${tlsPort}/system?pkipath=${pki}`,
    /** By its socket, past the cable. */
    virsh: (...args: string[]): string =>
      execFileSync('virsh', ['-q', '-c', north.uri('qemu'), ...args], { encoding: 'utf8' }),
    pull: () => void ip('link', 'set', ours, 'down'),
    plug: () => void ip('link', 'set', ours, 'up'),
    /** What goes there is slow: mebibits a second. */
    slow: (rate: number) => {
      const bucket = ['tbf', 'rate', `${rate}mbit`, 'burst', '256kb', 'latency', '400ms'];
      execFileSync('tc', [...shape, ...bucket]);
    },
    fast: () => void execFileSync('tc', ['qdisc', 'del', 'dev', ours, 'root']),
    /** The other host sees nothing of what is in a directory from now on. */
    hide: (path: string) => void inside('mount', 'mount', '-t', 'tmpfs', 'none', path),
    /** As if its power had failed: with all that runs there, and what is not on disk. */
    restart: async () => {
      await north.stop();
      north = await startNorth();
      await connect();
    },
    libvirtd: () => pid,
  };
}
