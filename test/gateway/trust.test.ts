import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import {
  copyFile,
  mkdir,
  mkdtemp,
  readFile,
  rename,
  rm,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { Agent } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { connect, type PeerCertificate } from 'node:tls';
import { once } from 'node:events';
import { promisify } from 'node:util';
import { loadTrust } from '#kernel/security/trust.js';
import { openAuthority, type Authority } from './authority.js';
import { eventually, startRig, type Rig } from './rig.js';

const run = promisify(execFile);

/** A rig that trusts what is in a folder, which starts with our authority and a README. */
async function startWithFolder(): Promise<Rig & { folder: string }> {
  const rig = await startRig((_request, response) => response.end('x'));
  const folder = join(rig.directory, 'trust');
  await mkdir(folder);
  await copyFile(rig.credentials.ca.certFile, join(folder, 'a1b2c3d4.0'));
  await writeFile(join(folder, 'README'), 'Authorities of this grid.\n');
  await rig.reconfigure({ tls: { trustFiles: [], trustDir: folder } });
  return Object.assign(rig, { folder });
}

describe('whom the gateway believes', () => {
  let authority: Authority;
  before(async () => (authority = await openAuthority()));
  after(() => authority[Symbol.asyncDispose]());

  const statusOf = async (rig: Rig, client: object) =>
    (await rig.request({ path: '/VSITE/x', ...client })).status;

  it('follows the folder of authorities: their coming, their lists, a broken file', async () => {
    await using rig = await startWithFolder();
    const alice = await authority.issue('CN=Alice');
    const bob = await authority.issue('CN=Bob');
    assert.equal(await statusOf(rig, alice), 200);

    await writeFile(join(rig.folder, 'a1b2c3d4.r0'), await authority.crl([bob.certificate]));
    await rig.gateway.reload();
    assert.equal(await statusOf(rig, alice), 200);
    const refused = await rig.request({ path: '/VSITE/x', ...bob });
    assert.deepEqual(
      [refused.status, (JSON.parse(refused.body) as { errorMessage: string }).errorMessage],
      [403, 'client certificate refused: CERT_REVOKED'],
    );

    await writeFile(
      join(rig.folder, 'half.pem'),
      '-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n',
    );
    await rig.gateway.reload();
    assert.deepEqual([await statusOf(rig, alice), await statusOf(rig, bob)], [200, 403]);
    const complaint = rig.lines.findLast(({ level }) => level === 50);
    assert.match(JSON.stringify(complaint), /half\.pem: neither certificate nor revocation list/);
  });
  it('refuses what is too large to be read, which may be a list', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'trust-'));
    await writeFile(join(folder, 'huge.crl'), '');
    await truncate(join(folder, 'huge.crl'), 65 * 1024 * 1024);
    await assert.rejects(loadTrust([], folder), { code: 'CONFIG_INVALID', message: /huge\.crl/ });
    await rm(folder, { recursive: true });
  });
  it('takes a list in DER, and none that is out of date', async () => {
    await using rig = await startWithFolder();
    const [alice, bob] = [await authority.issue('CN=Alice'), await authority.issue('CN=Bob')];
    const [pem, der] = [join(authority.directory, 'crl.pem'), join(rig.folder, 'list.crl')];
    await writeFile(pem, await authority.crl([bob.certificate]));
    await run('openssl', ['crl', '-in', pem, '-outform', 'DER', '-out', der]);
    await rig.gateway.reload();
    assert.deepEqual([await statusOf(rig, alice), await statusOf(rig, bob)], [200, 403]);
    await writeFile(der, await authority.crl([], true));
    await rig.gateway.reload();
    const { status, body } = await rig.request({ path: '/VSITE/x', ...alice });
    assert.equal(status, 403);
    assert.match(body, /CRL_HAS_EXPIRED/);
  });
  it('lets a connection and a session of a withdrawn certificate do nothing more', async () => {
    await using rig = await startWithFolder();
    const bob = await authority.issue('CN=Bob');
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    await rig.request({ path: '/VSITE/x', agent, ...bob });
    const socket = connect({ host: 'localhost', port: rig.port, ca: rig.ca, ...bob });
    const [session] = (await once(socket, 'session')) as [Buffer];
    assert.equal(await statusOf(rig, { session, ...bob }), 200);
    const resting = Object.values(agent.freeSockets)[0]![0]!;
    // No call to reload: the change is found
    await writeFile(join(rig.folder, 'list.r0'), await authority.crl([bob.certificate]));
    await once(resting, 'close');
    assert.equal(await statusOf(rig, { session, ...bob }), 403);
    // Opened before, used after: heard once, then closed
    socket.write('GET /VSITE/x HTTP/1.1\r\nHost: h\r\n\r\n');
    const [answer] = (await once(socket, 'data')) as [Buffer];
    assert.match(answer.toString(), /\r\nConnection: close\r\n/);
    socket.destroy();
    agent.destroy();
  });
  it('takes a new certificate and key of its own, and waits for both', async () => {
    await using rig = await startRig((_request, response) => response.end('x'));
    const [keyFile, certFile] = [join(rig.directory, 'own.key'), join(rig.directory, 'own.pem')];
    await copyFile(rig.credentials.gateway.keyFile, keyFile);
    await copyFile(rig.credentials.gateway.certFile, certFile);
    await rig.reconfigure({ tls: { keyFile, certFile } });
    const shown = async () => {
      const socket = connect({ host: 'localhost', port: rig.port, ca: rig.ca });
      await once(socket, 'secureConnect');
      const certificate: PeerCertificate = socket.getPeerCertificate();
      socket.destroy();
      return String(certificate.subject.CN);
    };
    assert.equal(await shown(), 'Gateway');
    await copyFile(rig.credentials.server.certFile, certFile);
    await eventually(
      () => rig.lines.some((line) => JSON.stringify(line).includes('own.pem: not usable')),
      'the pair does not fit',
    );
    assert.equal(await shown(), 'Gateway');
    await copyFile(rig.credentials.server.keyFile, `${keyFile}.new`);
    await rename(`${keyFile}.new`, keyFile);
    await eventually(async () => (await shown()) === 'Target System', 'the new one is shown');
  });
  it('reads its files at once when it gets SIGHUP', async () => {
    await using rig = await startRig((_request, response) => response.end('x'), {
      reloadSeconds: 3_600,
    });
    await writeFile(
      rig.configFile,
      (await readFile(rig.configFile, 'utf8')).replace('"VSITE"', '"RENAMED"'),
    );
    process.kill(process.pid, 'SIGHUP');
    await eventually(
      () => rig.lines.some(({ msg }) => msg === 'configuration read again'),
      'it was read',
    );
    assert.equal((await rig.request({ path: '/RENAMED/x' })).status, 200);
    assert.equal((await rig.request({ path: '/VSITE/x' })).status, 404);
  });
  it('staples what an OCSP responder said of its certificate', async () => {
    await using rig = await startRig((_request, response) => response.end('x'));
    const ocspFile = join(rig.directory, 'ocsp.der');
    await writeFile(ocspFile, await authority.ocsp(rig.credentials.gateway.certFile));
    const ask = async () => {
      const asking = run('openssl', [
        ...['s_client', '-connect', `localhost:${rig.port}`, '-status'],
        ...['-CAfile', rig.credentials.ca.certFile],
      ]);
      asking.child.stdin?.end();
      return (await asking).stdout;
    };
    assert.match(await ask(), /OCSP response: no response sent/);
    await rig.reconfigure({ tls: { ocspFile } });
    const stapled = await ask();
    assert.match(stapled, /OCSP Response Status: successful/);
    assert.match(stapled, /Cert Status: good/);
    const nothing = async (content: Buffer): Promise<void> => {
      await writeFile(ocspFile, content);
      await eventually(
        async () => (await ask()).includes('OCSP response: no response sent'),
        'it was read',
      );
    };
    await nothing(Buffer.from('this is no OCSP response'));
    await writeFile(ocspFile, await authority.ocsp(rig.credentials.gateway.certFile));
    await eventually(async () => (await ask()).includes('Cert Status: good'), 'it was read');
    await nothing(await authority.ocsp(rig.credentials.ca.certFile));
  });
});
