import assert from 'node:assert/strict';
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import type { Command } from '#kernel/libvirt/ssh.js';
import type { SshAddress } from '#kernel/libvirt/uri.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { createCa, issueCertificate, keyPem, type Credential } from '#kernel/security/ca.js';
import { aDaemon, aListeningDaemon, freePort, withoutLibvirtd } from './daemon.js';
import { startSshd, withoutSsh } from './sshd.js';

const unavailable = { code: 'HYPERVISOR_UNAVAILABLE' };
const host = '127.0.0.1';

async function use(client: LibvirtClient): Promise<void> {
  await using connected = client;
  assert.deepEqual(await connected.call('connect_get_type', {}), { type: 'TEST' });
}

/** A folder as `pkipath=` wants it. */
async function writePki(folder: string, ca: Credential, client: Credential): Promise<string> {
  await mkdir(folder, { recursive: true });
  const files = {
    'cacert.pem': ca.certificate.toString(),
    'clientcert.pem': client.certificate.toString(),
    'clientkey.pem': keyPem(client.key),
  };
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
  return folder;
}

describe('libvirt over the network', { skip: withoutLibvirtd }, () => {
  let daemon: Awaited<ReturnType<typeof aListeningDaemon>>;
  let ports: { tcp: number; tls: number };
  const pki = { good: '', stranger: '', foreign: '', abroad: '' };
  before(async () => {
    daemon = await aListeningDaemon(async (folder) => {
      ports = { tcp: await freePort(), tls: await freePort() };
      const ca = await createCa('CN=Test CA');
      // libvirtd insists on certificates for key encipherment, at both ends: RSA, no elliptic curves
      const keyType = 'rsa';
      const served = { subject: 'CN=libvirtd', usage: 'server', hosts: [host] } as const;
      const server = await issueCertificate(ca, { ...served, keyType });
      const issue = (subject: string, issuer = ca) =>
        issueCertificate(issuer, { subject, usage: 'client', keyType });
      const strangers = await createCa('CN=Another CA');
      const foreign = await issue('CN=vsite', strangers);
      pki.good = await writePki(join(folder, 'good'), ca, await issue('CN=vsite'));
      pki.stranger = await writePki(join(folder, 'st'), ca, await issue('CN=other'));
      pki.foreign = await writePki(join(folder, 'foreign'), ca, foreign);
      pki.abroad = await writePki(join(folder, 'abroad'), strangers, foreign);
      await writeFile(join(folder, 'server.pem'), server.certificate.toString());
      await writeFile(join(folder, 'server.key'), keyPem(server.key));
      return [
        `listen_addr = "${host}"`,
        'listen_tcp = 1',
        `tcp_port = "${ports.tcp}"`,
        'auth_tcp = "none"',
        'listen_tls = 1',
        `tls_port = "${ports.tls}"`,
        'auth_tls = "none"',
        `ca_file = "${join(folder, 'good', 'cacert.pem')}"`,
        `cert_file = "${join(folder, 'server.pem')}"`,
        `key_file = "${join(folder, 'server.key')}"`,
        'tls_allowed_dn_list = ["*CN=vsite*"]',
      ];
    });
  });
  after(() => daemon[Symbol.asyncDispose]());

  const connect = (uri: string) =>
    LibvirtClient.connect({ uri, log: silentLog, connectTimeoutMs: 5_000 });
  const tlsUri = (folder: string, name = host): string =>
    `test+tls://${name}:${ports.tls}/default?pkipath=${folder}`;

  it('is spoken over TCP', async () => {
    await use(await connect(`test+tcp://${host}:${ports.tcp}/default`));
  });

  it('is spoken over TLS with a client certificate', async () => {
    await use(await connect(tlsUri(pki.good)));
  });

  it('is not spoken with a certificate that the daemon does not let in', async () => {
    await assert.rejects(connect(tlsUri(pki.stranger)), unavailable);
  });

  it('is not spoken with a certificate of a foreign authority', async () => {
    await assert.rejects(connect(tlsUri(pki.foreign)), unavailable);
  });

  it('is not spoken with a server whose certificate is not for that name', async () => {
    await assert.rejects(connect(tlsUri(pki.good, 'localhost')), unavailable);
  });

  it('is not spoken with a server of a foreign authority', async () => {
    await assert.rejects(connect(tlsUri(pki.abroad)), unavailable);
  });

  it('needs the files of its certificate', async () => {
    await assert.rejects(connect(tlsUri('/nonexistent')), unavailable);
  });

  it('fails where nobody listens', async () => {
    await assert.rejects(connect(`test+tcp://${host}:${await freePort()}/default`), unavailable);
  });

  it('is not spoken with a server that speaks no TLS', async () => {
    const uri = tlsUri(pki.good).replace(String(ports.tls), String(ports.tcp));
    await assert.rejects(connect(uri), unavailable);
  });
});

describe('libvirt through a command', { skip: withoutLibvirtd }, () => {
  let daemon: Awaited<ReturnType<typeof aDaemon>>;
  before(async () => {
    daemon = await aDaemon();
  });
  after(() => daemon[Symbol.asyncDispose]());

  /** What `nc -U` does on the host that ssh reaches. */
  const netcat = `
    const socket = require('node:net').connect(process.argv[1]);
    process.stdin.pipe(socket).pipe(process.stdout);
    process.on('exit', () => process.stderr.write('the end'));`;
  const command = (address: SshAddress): Command => {
    assert.deepEqual([address.host, address.user], ['example.org', 'ada']);
    return [process.execPath, '-e', netcat, address.socket ?? ''];
  };
  const uri = (): string => `test+ssh://ada@example.org/default?socket=${daemon.socketPath}`;

  it('is spoken as over ssh', async () => {
    await use(await LibvirtClient.connect({ uri: uri(), log: silentLog, command }));
  });

  it('says what the command complained of', async () => {
    const failing = (): Command => ['sh', '-c', 'echo no route to host >&2; exit 255'];
    const connecting = LibvirtClient.connect({ uri: uri(), log: silentLog, command: failing });
    await assert.rejects(connecting, (error: Error & { code: string }) => {
      assert.equal(error.code, 'HYPERVISOR_UNAVAILABLE');
      return error.message.includes('no route to host');
    });
  });

  it('fails where there is no such program', async () => {
    const missing = (): Command => ['/nonexistent/ssh'];
    const connecting = LibvirtClient.connect({ uri: uri(), log: silentLog, command: missing });
    await assert.rejects(connecting, unavailable);
  });
});

describe('libvirt over ssh', { skip: withoutLibvirtd || withoutSsh }, () => {
  const scope = new Scope();
  let uri: (knownHosts?: string) => string;
  before(async () => {
    const daemon = scope.use(await aDaemon());
    const server = await startSshd(await mkdtemp(join(daemon.stateDir, 'ssh-')), scope);
    const { user, port, keyFile } = server;
    uri = (knownHosts = server.knownHosts) =>
      `test+ssh://${user}@${host}:${port}/default?socket=${daemon.socketPath}` +
      `&keyfile=${keyFile}&known_hosts=${knownHosts}`;
  });
  after(() => scope.close());

  it('is spoken with a key, to a host that is known', async () => {
    await use(await LibvirtClient.connect({ uri: uri(), log: silentLog }));
  });

  it('is not spoken with a host that is not known', async () => {
    const connecting = LibvirtClient.connect({ uri: uri('/dev/null'), log: silentLog });
    await assert.rejects(connecting, { ...unavailable, message: /[Hh]ost key/ });
  });
});
