import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { Identity } from '#kernel/security/identity.js';
import { createOidcVerifier, OidcProvider } from '#kernel/security/oidc.js';
import { oidcClient, startOidcProvider, type RunningOidcProvider } from './oidc-provider.js';

const { secret } = oidcClient;

describe('bearer tokens of an OpenID Connect provider', () => {
  let provider: RunningOidcProvider;
  let now = Date.now();
  const clock = { now: () => now, sleep: () => Promise.resolve() };
  const tokenOf = (account: string): Promise<string> => provider.tokenOf(account);

  before(async () => {
    provider = await startOidcProvider();
  });
  after(() => provider[Symbol.asyncDispose]());

  function verifier(options: Partial<OidcProvider> & { clientSecret?: string } = {}) {
    const { clientSecret, ...config } = options;
    const { issuer, ca } = provider;
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
    const before = provider.requests();
    await verify(token);
    assert.equal(provider.requests(), before);
    now += 61_000;
    await verify(token);
    assert.equal(provider.requests(), before + 1);
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
      ...OidcProvider.parse({ issuer: provider.issuer, clientId: 'grid' }),
      clock, // and no word of its authority
    });
    await assert.rejects(stranger('x'), { code: 'SITE_UNAVAILABLE' });
  });
});
