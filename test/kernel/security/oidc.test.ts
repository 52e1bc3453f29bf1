import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { SignJWT, UnsecuredJWT } from 'jose';
import { silentLog } from '#kernel/log.js';
import { createAuthenticator } from '#kernel/security/authenticate.js';
import { BearerConfig, createBearers } from '#kernel/security/bearers.js';
import type { Identity } from '#kernel/security/identity.js';
import { createOidcVerifier, OidcProvider } from '#kernel/security/oidc.js';
import { Sessions } from '#kernel/security/sessions.js';
import { openUsers } from '#kernel/security/users.js';
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

describe('bearer tokens, of one of several providers', () => {
  let directory = '';
  let providers: RunningOidcProvider[] = [];
  const [first, second] = [() => providers[0]!, () => providers[1]!] as const;
  const clock = { now: Date.now, sleep: () => Promise.resolve() };

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'oidc-'));
    await writeFile(join(directory, 'users.yaml'), 'users: []');
    providers = await Promise.all([startOidcProvider(), startOidcProvider()]);
    for (const [at, { ca }] of providers.entries())
      await writeFile(join(directory, `ca${at}.pem`), ca);
  });
  after(async () => {
    for (const provider of providers) await provider[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  /** @param issuer of the first one, instead of what it is */
  async function authenticator(issuer = first().issuer) {
    const users = await openUsers(join(directory, 'users.yaml'), { log: silentLog });
    const oidc = [issuer, second().issuer].map((each, at) => ({
      ...{ issuer: each, clientId: 'grid', caFile: join(directory, `ca${at}.pem`) },
      dnTemplate: `CN=\${sub},O=Provider ${at + 1}`,
    }));
    const bearers = await createBearers(BearerConfig.parse({ oidc }), { users, clock });
    const sessions = new Sessions({ clock });
    const log = silentLog;
    const authenticate = createAuthenticator({ users, bearers, sessions, log, trustedSigners: [] });
    return async (token: string): Promise<string> => {
      const request = new IncomingMessage(new Socket());
      request.headers = { authorization: `Bearer ${token}` };
      return (await authenticate(request, { setHeader: () => undefined })).dn;
    };
  }
  const requests = (): number[] => providers.map((each) => each.requests());
  const named = (issuer: string, subject = 'jane'): string =>
    new UnsecuredJWT({}).setIssuer(issuer).setSubject(subject).setExpirationTime('5 min').encode();

  it('are believed as the one says who knows them', async () => {
    const who = await authenticator();
    assert.equal(await who(await first().tokenOf('jane')), 'CN=jane,O=Provider 1');
    assert.equal(await who(await second().tokenOf('john')), 'CN=john,O=Provider 2');
  });

  it('are shown to nobody but the issuer that they name', async () => {
    const who = await authenticator();
    const [one, two] = requests();
    await assert.rejects(who(named(`${second().issuer}/`)), { code: 'UNAUTHENTICATED' });
    const after = requests();
    assert.equal(after[0], one);
    assert.ok(after[1]! > two!, 'it was not asked');
  });

  it('are shown to nobody if they name another issuer, or are a user’s own', async () => {
    const who = await authenticator();
    const before = requests();
    const own = new SignJWT({ etd: 'false' }).setProtectedHeader({ alg: 'HS256' });
    const signed = own.setIssuer('jane').setSubject('jane').setExpirationTime('5 min');
    for (const token of [
      named('https://elsewhere.example'),
      named(`${second().issuer}.evil.example`),
      named('jane'),
      await signed.sign(new Uint8Array(32)),
    ])
      await assert.rejects(who(token), { code: 'UNAUTHENTICATED' });
    assert.deepEqual(requests(), before);
  });

  it('are accepted while another provider is away; who knows none of the others waits', async () => {
    const away = 'https://127.0.0.1:9';
    const who = await authenticator(away);
    assert.equal(await who(await second().tokenOf('john')), 'CN=john,O=Provider 2');
    await assert.rejects(who('opaque'), { code: 'SITE_UNAVAILABLE' });
    await assert.rejects(who(named(away)), { code: 'SITE_UNAVAILABLE' });
    await assert.rejects(who(named(second().issuer)), { code: 'UNAUTHENTICATED' });
  });
});
