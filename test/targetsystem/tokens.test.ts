import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { request } from 'undici';
import { systemClock } from '#kernel/clock.js';
import { listen } from '#kernel/http/listen.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { createCa, issueCertificate } from '#kernel/security/ca.js';
import { createDelegationVerifier, createTokenIssuer, peekToken } from '#kernel/security/tokens.js';
import type { RestDeps } from '#targetsystem/rest/deps.js';
import { tokenOperations } from '#targetsystem/rest/tokens.js';

describe('what a server signs tokens with', () => {
  const scope = new Scope();
  const dn = 'CN=Server,O=Grid';
  let origin = '';

  before(async () => {
    const ca = await createCa('CN=CA');
    const server = await issueCertificate(ca, { subject: dn, usage: 'server', validDays: 1 });
    const { certificate } = server;
    const deps: Partial<RestDeps> = {
      clock: systemClock,
      issueToken: createTokenIssuer(server.key, dn, systemClock),
      credential: {
        ...{ dn, issuer: 'CN=CA', pem: certificate.toString() },
        expiresMs: Date.parse(certificate.validTo),
      },
    };
    const app = createRestApp({
      mounts: [mount('/rest/core', tokenOperations, deps as RestDeps)], // all that these need
      authenticate: () => ({ dn: 'CN=Jane', role: 'user' }),
      externalUrl: 'https://grid.example/TEST',
      log: silentLog,
    });
    origin = `http://127.0.0.1:${(await listen(app, { host: '127.0.0.1', port: 0 }, scope)).port}`;
  });
  after(() => scope.close());

  async function get(path: string, accept = 'text/plain') {
    const { statusCode, headers, body } = await request(`${origin}/rest/core${path}`, {
      headers: { accept },
    });
    return { status: statusCode, type: String(headers['content-type']), text: await body.text() };
  }

  it('is told to everybody as a certificate, by which its tokens can be verified', async () => {
    const { status, type, text: pem } = await get('/certificate');
    assert.deepEqual([status, type.split(';')[0]], [200, 'text/plain']);
    assert.match(pem, /^-----BEGIN CERTIFICATE-----\n[^-]+\n-----END CERTIFICATE-----\n$/);
    assert.equal((await get('/certificate', 'application/json')).status, 406);
    const issuers = [new X509Certificate(pem)];
    const verify = createDelegationVerifier({ issuers, clock: systemClock });
    const { text: token } = await get('/token?lifetime=60');
    assert.equal((await verify(token, peekToken(token)!)).dn, 'CN=Jane');
  });

  it('limits how long they may live', async () => {
    assert.equal((await get('/token?lifetime=3600')).status, 200);
    const { status, text } = await get(`/token?lifetime=${2 * 86_400}`);
    assert.equal(status, 400);
    assert.match(text, /lifetime: outlives the server's certificate/);
  });
});
