import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { createCa, issueCertificate, keyPem } from '#kernel/security/ca.js';
import { createCredentials, type Credentials } from '#kernel/security/credentials.js';
import { formatDn, subjectDn } from '#kernel/security/dn.js';

const run = promisify(execFile);

describe('credentials', () => {
  let directory: string;
  let made: Credentials;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'credentials-'));
    made = await createCredentials({ directory, hosts: ['grid.example.org', '192.0.2.7'] });
  });
  after(() => rm(directory, { recursive: true, force: true }));

  const contents = async () =>
    Object.fromEntries(
      await Promise.all(
        (await readdir(directory)).map(async (name) => [
          name,
          await readFile(join(directory, name), 'base64'),
        ]),
      ),
    ) as Record<string, string>;
  const certificate = async (file: string) => new X509Certificate(await readFile(file));

  it('pass the strict checks of OpenSSL', async () => {
    const files = [made.gateway, made.server, made.tsi, made.user, made.consignor].map(
      (c) => c.certFile,
    );
    const { stdout } = await run('openssl', [
      'verify',
      '-x509_strict',
      '-CAfile',
      made.ca.certFile,
      ...files,
    ]);
    assert.equal(stdout.match(/: OK/g)?.length, 5);
  });
  it('name the hosts', async () => {
    const gateway = await certificate(made.gateway.certFile);
    for (const host of ['localhost', 'grid.example.org']) assert.ok(gateway.checkHost(host));
    for (const address of ['127.0.0.1', '::1', '192.0.2.7']) assert.ok(gateway.checkIP(address));
    assert.ok(!gateway.checkHost('elsewhere.example.org'));
  });
  it('name the user', async () => {
    assert.equal(made.user.dn, 'CN=Demo User,O=VSite,C=EU');
    assert.equal(formatDn(subjectDn(await certificate(made.user.certFile))), made.user.dn);
  });
  it('keep secrets from others', async () => {
    for (const name of await readdir(directory)) {
      const { mode } = await stat(join(directory, name));
      assert.equal(mode & 0o777, name.endsWith('.pem') ? 0o644 : 0o600, name);
    }
    assert.equal((await stat(directory)).mode & 0o077, 0);
  });
  it('come with a bundle that OpenSSL opens with the password beside it', async () => {
    const { stdout } = await run('openssl', [
      ...['pkcs12', '-in', made.user.pkcs12File, '-nodes'],
      ...['-passin', `file:${made.user.pkcs12PasswordFile}`],
    ]);
    assert.equal(stdout.match(/BEGIN CERTIFICATE/g)?.length, 2);
    assert.match(stdout, /BEGIN PRIVATE KEY/);
  });
  it('are kept when made again', async () => {
    const before = await contents();
    await createCredentials({ directory, hosts: ['grid.example.org'] });
    assert.deepEqual(await contents(), before);
  });
  it('are renewed when about to expire, broken or for other hosts, and only these', async () => {
    const ca = {
      certificate: await certificate(made.ca.certFile),
      key: createPrivateKey(await readFile(made.ca.keyFile)),
    };
    const subject = 'CN=TSI,O=VSite,C=EU';
    const old = await issueCertificate(ca, { subject, usage: 'server', validDays: 3 });
    await writeFile(made.tsi.certFile, old.certificate.toString());
    await writeFile(made.tsi.keyFile, keyPem(old.key));
    // A key that does not fit
    await writeFile(made.user.keyFile, keyPem(old.key));
    const before = await contents();
    await createCredentials({ directory, hosts: ['grid.example.org'] });
    const now = await contents();
    const changed = Object.keys(now).filter((name) => now[name] !== before[name]);
    assert.deepEqual(changed.sort(), [
      ...['demo-user.key', 'demo-user.p12', 'demo-user.p12.password', 'demo-user.pem'],
      ...['tsi.key', 'tsi.pem'],
    ]);
  });
  it('are not overwritten when unreadable', async () => {
    const key = await readFile(made.ca.keyFile);
    await writeFile(made.ca.keyFile, 'nonsense');
    await assert.rejects(createCredentials({ directory }), { code: 'CONFIG_INVALID' });
    await writeFile(made.ca.keyFile, key);
  });
});

describe('certificates', () => {
  it('have long random serial numbers and unusual names', async () => {
    const ca = await createCa('CN=Jörg\\, CA+OU=x,DC=example,C=EU');
    const [a, b] = await Promise.all(
      [1, 2].map(() => issueCertificate(ca, { subject: 'CN=a', usage: 'server' })),
    );
    assert.notEqual(a!.certificate.serialNumber, b!.certificate.serialNumber);
    assert.ok(a!.certificate.serialNumber.length >= 38);
    assert.equal(formatDn(subjectDn(ca.certificate)), 'CN=Jörg\\, CA+OU=x,DC=example,C=EU');
    assert.ok(a!.certificate.checkIssued(ca.certificate));
  });
});
