import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHmac, createPrivateKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { decodeJwt, SignJWT } from 'jose';
import sshpk from 'sshpk';
import { silentLog } from '#kernel/log.js';
import { createAuthenticator, type Authenticate } from '#kernel/security/authenticate.js';
import { BearerConfig, createBearers } from '#kernel/security/bearers.js';
import { createCa, type Credential } from '#kernel/security/ca.js';
import type { AuthenticatedCaller } from '#kernel/security/caller.js';
import { Sessions } from '#kernel/security/sessions.js';
import { algorithmOf, createTokenIssuer, type NewToken } from '#kernel/security/tokens.js';
import { openUsers } from '#kernel/security/users.js';

const serverDn = 'CN=Server,O=VSite';
const demo = 'CN=Demo User,O=VSite,C=EU';
const day = 86_400;
const sharing = 'CN=Sharing,O=Grid';
const secret = 'a secret of more than thirty-two bytes';

describe('bearer tokens', () => {
  let now = Date.now();
  const clock = { now: () => now, sleep: () => Promise.resolve() };
  const sessions = new Sessions({ clock });
  const keyTypes = ['rsa', 'ecdsa', 'ed25519'] as const;
  const sshKeys = new Map<string, KeyObject>();
  let directory: string;
  let ours: Credential;
  let theirs: Credential;
  let stranger: Credential;
  let authenticate: Authenticate;

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'tokens-'));
    [ours, theirs, stranger] = await Promise.all([
      createCa(serverDn),
      createCa('CN=Other,O=Grid'),
      createCa(serverDn), // claims our name
    ]);
    const lines: string[] = [];
    for (const type of keyTypes) {
      const file = join(directory, type);
      execFileSync('ssh-keygen', ['-q', '-t', type, '-N', '', '-m', 'PEM', '-f', file]);
      lines.push(await readFile(`${file}.pub`, 'utf8'));
      const pem = await readFile(file, 'utf8');
      sshKeys.set(type, readPrivateKey(pem));
    }
    const users = [
      { name: 'demo', dn: demo, login: 'account', groups: ['users', 'proj1'], sshKeys: lines },
      { name: 'bad', dn: 'CN=Bad', role: 'banned' },
    ];
    const usersFile = join(directory, 'users.yaml');
    const issuer = join(directory, 'other.pem');
    await writeFile(usersFile, JSON.stringify({ users }));
    await writeFile(issuer, theirs.certificate.toString());
    const table = await openUsers(usersFile, { log: silentLog });
    const secretFile = join(directory, 'secret');
    await writeFile(secretFile, `${secret}\n`);
    const config = BearerConfig.parse({
      issuerFiles: [issuer],
      sharedSecrets: [{ issuer: sharing, secretFile }],
    });
    authenticate = createAuthenticator({
      users: table,
      trustedSigners: [],
      sessions,
      log: silentLog,
      bearers: await createBearers(config, {
        users: table,
        clock,
        serverDn,
        certificate: ours.certificate,
      }),
    });
  });
  after(() => rm(directory, { recursive: true, force: true }));

  async function ask(token: string, headers: Record<string, string> = {}) {
    const request = new IncomingMessage(new Socket());
    request.headers = { authorization: `Bearer ${token}`, ...headers };
    const answer: Record<string, unknown> = {};
    const setHeader = (name: string, value: unknown) => (answer[name] = value) as never;
    const caller: AuthenticatedCaller = await authenticate(request, { setHeader });
    return { caller, lifetimeMs: Number(answer['X-UNICORE-SecuritySession-Lifetime']) };
  }
  const issue = (by: Credential, dn: string, token: Partial<NewToken> = {}): Promise<string> =>
    createTokenIssuer(by.key, dn, clock)({ subject: demo, lifetimeSeconds: 300, ...token });
  const refused = (token: string): Promise<void> =>
    assert.rejects(ask(token), { code: 'UNAUTHENTICATED' });

  it('from this server speak for their user, with what the users file says of him', async () => {
    const { caller } = await ask(await issue(ours, serverDn));
    assert.deepEqual(
      [caller.dn, caller.role, caller.login, caller.method],
      [demo, 'user', 'account', 'ETD'],
    );
  });

  it('from another trusted server count, from strangers not, whatever name they claim', async () => {
    assert.equal((await ask(await issue(theirs, 'CN=Other,O=Grid'))).caller.dn, demo);
    await refused(await issue(stranger, serverDn));
    await refused(await issue(theirs, serverDn));
    await refused(await issue(stranger, 'CN=Stranger'));
  });

  it('end when they say, and so do the sessions that they open', async () => {
    const token = await issue(ours, serverDn, { lifetimeSeconds: 300 });
    assert.ok((await ask(token)).lifetimeMs <= 300_000);
    now += 400_000; // the clocks of servers may differ by a minute
    await refused(token);
    now -= 400_000;
  });

  it('that are limited to a server are for that one only', async () => {
    assert.equal((await ask(await issue(ours, serverDn, { limited: true }))).caller.dn, demo);
    await refused(await issue(theirs, 'CN=Other,O=Grid', { limited: true }));
  });

  it('fix the preferences of their bearer', async () => {
    const token = await issue(ours, serverDn, { preferences: 'group:proj1' });
    const header = { 'x-unicore-user-preferences': 'group:users' };
    assert.equal((await ask(token, header)).caller.attributes.group, 'proj1');
  });

  it('give a login to a user who is in no file only if this server issued them', async () => {
    const subject = 'CN=Nobody Here';
    const own = await ask(await issue(ours, serverDn, { subject, login: 'guest' }));
    assert.deepEqual([own.caller.role, own.caller.login], ['user', 'guest']);
    const other = await ask(await issue(theirs, 'CN=Other,O=Grid', { subject, login: 'root' }));
    assert.deepEqual([other.caller.role, other.caller.login], ['anonymous', undefined]);
  });

  it('do not let a banned user in', async () => {
    const token = await issue(ours, serverDn, { subject: 'CN=Bad' });
    await assert.rejects(ask(token), { code: 'FORBIDDEN' });
  });

  it('are worth nothing without a signature, or with one of another kind', async () => {
    const [, payload = '', signature = ''] = (await issue(ours, serverDn)).split('.');
    const part = (value: object): string =>
      Buffer.from(JSON.stringify(value)).toString('base64url');
    await refused(`${part({ alg: 'none' })}.${payload}.`);
    await refused(`${part({ alg: 'none' })}.${payload}.${signature}`);
    // the public key as the secret of a MAC
    const head = `${part({ alg: 'HS256', typ: 'JWT' })}.${payload}`;
    for (const secret of [
      ours.certificate.publicKey.export({ type: 'spki', format: 'pem' }),
      ours.certificate.toString(),
    ])
      await refused(`${head}.${createHmac('sha256', secret).update(head).digest('base64url')}`);
    const longer = part({ ...decodeJwt(await issue(ours, serverDn)), sub: 'CN=Root' });
    await refused(`${part({ alg: 'RS256' })}.${longer}.${signature}`);
    for (const nonsense of ['x', 'a.b.c', '..', payload]) await refused(nonsense);
  });

  it('are signed by a secret that two servers share, in the name of that server only', async () => {
    const signed = (issuer: string, text: string): Promise<string> =>
      new SignJWT({ etd: 'true' })
        .setProtectedHeader({ alg: 'HS256' })
        .setIssuer(issuer)
        .setSubject(demo)
        .setExpirationTime(Math.floor(now / 1_000) + 60)
        .sign(new TextEncoder().encode(text));
    assert.equal((await ask(await signed(sharing, secret))).caller.dn, demo);
    await refused(await signed(sharing, `${secret}.`));
    await refused(await signed(serverDn, secret));
    await refused(await issue(theirs, sharing));
  });

  it('with odd claims are refused, not stumbled over', async () => {
    const now_ = Math.floor(now / 1_000);
    const good = { etd: 'true', sub: demo, iss: serverDn, exp: now_ + 60 };
    const signed = (claims: object): Promise<string> =>
      new SignJWT({ ...good, ...claims })
        .setProtectedHeader({ alg: algorithmOf(ours.certificate.publicKey) })
        .sign(ours.key);
    assert.equal((await ask(await signed({}))).caller.dn, demo);
    const odd: object[] = [
      { sub: 'nobody' },
      { sub: '' },
      { sub: 7 },
      { sub: ['CN=Root'] },
      { sub: `CN=${'x'.repeat(20_000)}` },
      { sub: null },
      { iss: 7 },
      { iss: [serverDn] },
      { exp: 'tomorrow' },
      { exp: undefined },
      { exp: now_ - 100 },
      { nbf: now_ + 1_000 },
      { etd: true },
      { etd: 'false' },
      { aud: 'CN=Somebody,O=Else' },
      { aud: [] },
      { aud: 7 },
    ];
    for (const claims of odd) await refused(await signed(claims));
    const harmless = [{ uid: '-rf' }, { uid: { a: 1 } }, { uid: 'x'.repeat(5_000) }, { roles: 'admin', role: 'admin' }, { __proto__: { role: 'admin' } }, { preferences: 7 }, { renewable: true }, { exp: now_ + 1e9 }]; // prettier-ignore
    for (const claims of harmless) {
      const { caller } = await ask(await signed(claims));
      assert.deepEqual([caller.role, caller.login], ['user', 'account'], JSON.stringify(claims));
      assert.equal(caller.renewable, false);
    }
    for (const preferences of ['role:admin', 'uid:root', 'group:wheel', 'x', ':', 'vo:/x'])
      await assert.rejects(ask(await signed({ preferences })), { code: 'FORBIDDEN' });
  });

  describe('signed by users with their SSH keys', () => {
    const signed = (
      key: KeyObject,
      claims: object = {},
      seconds = 300,
      alg = algorithmOf(key),
    ): Promise<string> =>
      new SignJWT({ etd: 'false', sub: 'demo', iss: 'demo', ...claims })
        .setProtectedHeader({ alg })
        .setIssuedAt(Math.floor(now / 1_000))
        .setExpirationTime(Math.floor(now / 1_000) + seconds)
        .sign(key);

    for (const type of keyTypes)
      it(`count: ${type}`, async () => {
        const { caller } = await ask(await signed(sshKeys.get(type)!));
        assert.deepEqual([caller.dn, caller.method, caller.role], [demo, 'SSHKEY', 'user']);
      });

    it('count by the name that Ed25519 has since RFC 9864, as UCC sends it', async () => {
      const { caller } = await ask(await signed(sshKeys.get('ed25519')!, {}, undefined, 'Ed25519'));
      assert.deepEqual([caller.dn, caller.method], [demo, 'SSHKEY']);
    });

    it('are refused: another key, another user, no end, an end far away, one for somebody else', async () => {
      const key = sshKeys.get('ed25519')!;
      await refused(await signed(generateKeyPairSync('ed25519').privateKey));
      await refused(await signed(key, { sub: 'bad', iss: 'bad' }));
      await refused(await signed(key, { sub: 'nobody', iss: 'nobody' }));
      await refused(await signed(key, {}, 40 * day));
      await refused(await signed(key, { sub: demo, iss: 'demo' }));
      await refused(await signed(key, { etd: 'true' }));
      const endless = new SignJWT({ sub: 'demo', iss: 'demo' }).setProtectedHeader({
        alg: 'EdDSA',
      });
      await refused(await endless.sign(key));
    });
  });
});

/** OpenSSH writes Ed25519 keys in a form of its own, which node does not read. */
function readPrivateKey(pem: string): KeyObject {
  if (!pem.includes('OPENSSH')) return createPrivateKey(pem);
  const { parts } = sshpk.parsePrivateKey(pem, 'ssh-private');
  const octets = (name: string): string =>
    parts
      .find((part) => part.name === name)!
      .data.subarray(0, 32)
      .toString('base64url');
  return createPrivateKey({
    format: 'jwk',
    key: { kty: 'OKP', crv: 'Ed25519', d: octets('k'), x: octets('A') },
  });
}
