import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { after, before, describe, it } from 'node:test';
import Provider from 'oidc-provider';
import { createCa, issueCertificate } from '#kernel/security/ca.js';
import type { Identity } from '#kernel/security/identity.js';
import { createOidcVerifier, OidcProvider } from '#kernel/security/oidc.js';

const secret = 'a secret of the client';

describe('bearer tokens of an OpenID Connect provider', () => {
  let server: Server;
  let provider: Provider;
  let issuer: string;
  let ca: string;
  let requests = 0;
  let now = Date.now();
  const clock = { now: () => now, sleep: () => Promise.resolve() };

  before(async () => {
    const authority = await createCa('CN=Provider CA');
    const hosts = ['127.0.0.1'];
    const own = await issueCertificate(authority, { subject: 'CN=op', usage: 'server', hosts });
    ca = authority.certificate.toString();
    const key = own.key.export({ type: 'pkcs8', format: 'pem' });
    server = createServer({ key, cert: own.certificate.toString() }, (request, response) => {
      requests += 1;
      void provider.callback()(request, response);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    issuer = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
    provider = new Provider(issuer, {
      clients: [
        {
          client_id: 'grid',
          client_secret: secret,
          redirect_uris: ['https://grid.example/'],
          // introspection only
          grant_types: ['authorization_code'],
        },
      ],
      claims: { openid: ['sub'], profile: ['preferred_username', 'name'] },
      ttl: { AccessToken: 600, Grant: 600 },
      features: { introspection: { enabled: true }, devInteractions: { enabled: false } },
      findAccount: (_context, sub) => ({
        accountId: sub,
        claims: () => ({ sub, preferred_username: sub, name: `Doe, ${sub} "X"` }),
      }),
    });
  });
  after(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  });

  /** As the provider gives it to a client after its user has agreed. */
  async function tokenOf(accountId: string): Promise<string> {
    const client = await provider.Client.find('grid');
    const grant = new provider.Grant({ accountId, clientId: 'grid' });
    grant.addOIDCScope('openid profile');
    const grantId = await grant.save();
    const token = new provider.AccessToken({
      accountId,
      client: client!,
      grantId,
      scope: 'openid profile',
      gty: 'authorization_code',
      expiresWithSession: false,
    });
    return await token.save();
  }

  function verifier(options: Partial<OidcProvider> & { clientSecret?: string } = {}) {
    const { clientSecret, ...config } = options;
    const parsed = OidcProvider.parse({ issuer, clientId: 'grid', ...config });
    return createOidcVerifier({ ...parsed, clientSecret, ca, clock });
  }

  it('are believed as userinfo says, with every character of a name', async () => {
    const verify = verifier({ dnTemplate: 'CN=${name},O=Grid', loginClaim: 'preferred_username' });
    const identity: Identity | undefined = await verify(await tokenOf('jane'));
    assert.equal(identity?.dn, 'CN=Doe\\, jane \\"X\\",O=Grid');
    assert.deepEqual(identity.claims, { role: 'user', login: 'jane' });
    assert.equal(identity.method, 'OAUTH');
  });

  it('are believed as introspection says, until they end', async () => {
    const verify = verifier({ clientSecret: secret });
    const identity = await verify(await tokenOf('john'));
    assert.equal(identity?.dn, 'CN=john,O=OIDC');
    assert.ok(identity.untilMs! <= Date.now() + 601_000);
  });

  it('are asked about once in a while, not with every request', async () => {
    const verify = verifier({ cacheSeconds: 60 });
    const token = await tokenOf('jane');
    await verify(token);
    const before = requests;
    await verify(token);
    assert.equal(requests, before);
    now += 61_000;
    await verify(token);
    assert.equal(requests, before + 1);
  });

  it('that the provider does not know are nobody', async () => {
    assert.equal(await verifier()('nonsense'), undefined);
    assert.equal(await verifier({ clientSecret: secret })('nonsense'), undefined);
  });

  it('of a user of whom a claim is missing are refused', async () => {
    const verify = verifier({ dnTemplate: 'CN=${mail}' });
    await assert.rejects(verify(await tokenOf('jane')), { code: 'UNAUTHENTICATED' });
  });

  it('wait for a provider that does not answer, and are accepted when it does', async () => {
    const away = verifier({ issuer: 'https://127.0.0.1:9' });
    await assert.rejects(away('x'), { code: 'SITE_UNAVAILABLE' });
    const stranger = createOidcVerifier({
      ...OidcProvider.parse({ issuer, clientId: 'grid' }),
      clock, // and no word of its authority
    });
    await assert.rejects(stranger('x'), { code: 'SITE_UNAVAILABLE' });
  });
});
