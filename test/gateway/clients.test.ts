import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { startRig, type Rig } from './rig.js';

const run = promisify(execFile);

describe('gateway met by real clients', () => {
  let rig: Rig;
  before(async () => {
    rig = await startRig((request, response) => {
      request.resume();
      request.on('end', () => response.end(JSON.stringify(request.headers)));
    });
  });
  after(() => rig[Symbol.asyncDispose]());

  it('answers curl, which verifies its name and shows a certificate', async () => {
    const { ca, user } = rig.credentials;
    const { stdout } = await run('curl', [
      ...['-sS', '--cacert', ca.certFile, '--cert', user.certFile, '--key', user.keyFile],
      ...['-T', user.certFile, `https://127.0.0.1:${rig.port}/VSITE/x`],
    ]);
    assert.match(stdout, /DN=\\"CN=Demo User,O=VSite,C=EU\\"/);
  });
  it('answers curl with the PKCS#12 bundle', async () => {
    const { ca, user } = rig.credentials;
    const password = (await readFile(user.pkcs12PasswordFile, 'utf8')).trim();
    const { stdout } = await run('curl', [
      ...[
        '-sS',
        '--cacert',
        ca.certFile,
        '--cert-type',
        'P12',
        '--cert',
        `${user.pkcs12File}:${password}`,
      ],
      `https://localhost:${rig.port}/VSITE/x`,
    ]);
    assert.match(stdout, /Demo User/);
  });
  it('asks for a certificate of its authority, by openssl s_client', async () => {
    const { ca } = rig.credentials;
    const child = run('openssl', [
      ...['s_client', '-connect', `localhost:${rig.port}`, '-CAfile', ca.certFile],
      ...['-verify_return_error', '-verify_hostname', 'localhost', '-tls1_2'],
    ]);
    child.child.stdin?.end('GET / HTTP/1.0\r\n\r\n');
    const { stdout } = await child;
    assert.match(stdout, /Acceptable client certificate CA names[^]*CN = VSite CA/);
    assert.match(stdout, /Verify return code: 0 \(ok\)/);
    assert.match(stdout, /Cipher *: ECDHE-ECDSA-AES/);
  });
});
