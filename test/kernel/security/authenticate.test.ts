import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import type { Caller } from '#kernel/http/caller.js';
import { createLog } from '#kernel/log.js';
import { createAuthenticator } from '#kernel/security/authenticate.js';
import { createCa, type Credential } from '#kernel/security/ca.js';
import type { AuthenticatedCaller } from '#kernel/security/caller.js';
import { createConsignorSigner } from '#kernel/security/consignor.js';
import { parseDn } from '#kernel/security/dn.js';
import { hashPassword, PasswordChecker } from '#kernel/security/password.js';
import { decide, hasRole, resourcePolicies } from '#kernel/security/policy.js';
import { Sessions } from '#kernel/security/sessions.js';
import { openUsers, type Users } from '#kernel/security/users.js';

type Headers = Record<string, string>;
const demo = 'CN=Demo User,O=VSite,C=EU';

describe('authentication', () => {
  let directory: string;
  let file: string;
  let signer: Credential;
  let stored: string;
  let users: Users;
  let now = 0;
  const clock = { now: () => now, sleep: () => Promise.resolve() };
  const lines: Record<string, unknown>[] = [];
  const passwords = new PasswordChecker();
  let sessions: Sessions;

  const writeUsers = (extra: object = {}) =>
    writeFile(
      file,
      JSON.stringify({
        users: [
          { name: 'demo', dn: demo, password: stored, groups: ['users', 'proj1'], ...extra },
          { name: 'root', dn: 'CN=Root', password: stored, role: 'admin' },
          { name: 'bad', dn: 'CN=Bad', password: stored, role: 'banned' },
          { name: 'cert', dn: 'CN=Cert Only' },
        ],
      }),
    );
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'authenticate-'));
    file = join(directory, 'users.yaml');
    [signer, stored] = await Promise.all([createCa('CN=Gateway'), hashPassword('test123')]);
  });
  after(() => rm(directory, { recursive: true, force: true }));
  beforeEach(async () => {
    now = 1_000_000;
    lines.length = 0;
    await writeUsers();
    const log = createLog({
      stream: { write: (line) => void lines.push(JSON.parse(line) as Record<string, unknown>) },
    });
    users = await openUsers(file, { log, recheckMs: 0 });
    sessions = new Sessions({ clock, perPeer: 3 });
  });

  async function ask(headers: Headers): Promise<{
    caller: AuthenticatedCaller;
    session: string;
    lifetime: number;
    renew: () => Promise<Caller>;
  }> {
    const log = createLog({
      stream: { write: (line) => void lines.push(JSON.parse(line) as Record<string, unknown>) },
    });
    const trustedSigners = [signer.certificate];
    const authenticate = createAuthenticator({ users, sessions, passwords, trustedSigners, log });
    const request = new IncomingMessage(new Socket());
    request.headers = headers;
    const answer: Record<string, unknown> = {};
    const response = {
      setHeader: (name: string, value: unknown) => (answer[name] = value) as never,
    };
    const caller = await authenticate(request, response);
    return {
      caller,
      renew: () => authenticate.renew(caller),
      session: String(answer['X-UNICORE-SecuritySession']),
      lifetime: Number(answer['X-UNICORE-SecuritySession-Lifetime']),
    };
  }
  const basic = (user: string, password = 'test123') => ({
    authorization: `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`,
  });
  const consignor = (dn: string) => ({
    'x-unicore-consignor': createConsignorSigner(signer.key)(parseDn(dn)),
  });
  const sessionOf = (id: string) => ({ 'x-unicore-securitysession': id });
  const prefer = (text: string) => ({ 'x-unicore-user-preferences': text });

  it('knows a user by password', async () => {
    const { caller } = await ask({ ...basic('demo'), 'x-unicore-consignor-ip': '192.0.2.1' });
    assert.deepEqual(caller, {
      dn: demo,
      role: 'user',
      login: 'demo',
      method: 'PASSWORD_FILE',
      peer: '192.0.2.1',
      preferences: {},
      attributes: {
        roles: ['user'],
        logins: ['demo'],
        groups: ['users', 'proj1'],
        group: 'users',
        supplementaryGroups: [],
        vos: [],
      },
    });
  });
  it('knows a user by certificate, however the name is spelt', async () => {
    const { caller } = await ask(consignor('CN=demo  user,O=VSite,C=EU'));
    assert.equal(caller.dn, demo);
    assert.equal(caller.role, 'user');
    assert.equal(caller.method, 'X509');
  });
  it('takes a stranger with a good certificate for himself, without any role', async () => {
    const { caller } = await ask(consignor('CN=Stranger'));
    assert.deepEqual(
      [caller.dn, caller.role, caller.login],
      ['CN=Stranger', 'anonymous', undefined],
    );
  });
  it('takes a client without credentials for anonymous', async () => {
    const { caller, session } = await ask({});
    assert.deepEqual([caller.dn, caller.role], ['CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN', 'anonymous']);
    assert.match(session, /^[\w-]{36}$/);
  });
  it('takes the password where certificate and password are given', async () => {
    const { caller } = await ask({ ...basic('root'), ...consignor(demo) });
    assert.equal(caller.dn, 'CN=Root');
  });

  const refused: [string, () => Headers, string][] = [
    ['a wrong password', () => basic('demo', 'wrong'), 'UNAUTHENTICATED'],
    ['an unknown user', () => basic('nobody'), 'UNAUTHENTICATED'],
    ['a user without a password', () => basic('cert', ''), 'UNAUTHENTICATED'],
    [
      'a wrong password beside a good certificate',
      () => ({ ...basic('demo', 'x'), ...consignor(demo) }),
      'UNAUTHENTICATED',
    ],
    [
      'an unsigned consignor',
      () => ({ 'x-unicore-consignor': `DN="${demo}";DSIG=` }),
      'UNAUTHENTICATED',
    ],
    ['a scheme we do not speak', () => ({ authorization: 'Bearer abc' }), 'UNAUTHENTICATED'],
    ['broken Basic', () => ({ authorization: 'Basic !!' }), 'UNAUTHENTICATED'],
    ['Basic without a colon', () => ({ authorization: 'Basic ZGVtbw==' }), 'UNAUTHENTICATED'],
    ['a banned user', () => basic('bad'), 'FORBIDDEN'],
    ['a banned user by certificate', () => consignor('CN=Bad'), 'FORBIDDEN'],
    [
      'an unknown session, good password or not',
      () => ({ ...basic('demo'), ...sessionOf('nope') }),
      'SESSION_UNKNOWN',
    ],
    ['a role that is not his', () => ({ ...basic('demo'), ...prefer('role:admin') }), 'FORBIDDEN'],
    ['a login that is not his', () => ({ ...basic('demo'), ...prefer('uid:root') }), 'FORBIDDEN'],
    [
      'a group that is not his',
      () => ({ ...basic('demo'), ...prefer('group:wheel') }),
      'FORBIDDEN',
    ],
    [
      'supplementary groups not his',
      () => ({ ...basic('demo'), ...prefer('supgids:users+wheel') }),
      'FORBIDDEN',
    ],
    [
      'preferences that are no pairs',
      () => ({ ...basic('demo'), ...prefer('group') }),
      'FORBIDDEN',
    ],
    ['roles for anonymous', () => prefer('role:user'), 'FORBIDDEN'],
  ];
  for (const [what, headers, code] of refused)
    it(`refuses ${what}, and says so in the log`, async () => {
      await assert.rejects(ask(headers()), { code });
      assert.equal(lines.at(-1)?.['code'], code);
      assert.equal(sessions.size, 0);
    });

  it('computes as much for an unknown user as for a wrong password', async () => {
    const before = passwords.computed;
    await assert.rejects(ask(basic('demo', 'guess 1')));
    await assert.rejects(ask(basic('nobody', 'guess 2')));
    await assert.rejects(ask(basic('cert', 'guess 3')));
    assert.equal(passwords.computed - before, 3);
  });
  it('never logs a password', async () => {
    await ask(basic('demo'));
    await assert.rejects(ask(basic('demo', 'wr0ng-pass')));
    assert.doesNotMatch(JSON.stringify(lines), /test123|wr0ng-pass|Basic/);
  });

  it('lets a session stand for the credentials until it ends', async () => {
    const first = await ask(basic('demo'));
    assert.equal(first.lifetime, 28_800_000);
    now += 1_000;
    const second = await ask(sessionOf(first.session));
    assert.deepEqual([second.caller, second.session], [first.caller, first.session]);
    assert.equal(second.lifetime, 28_799_000);
    now += 28_799_000;
    await assert.rejects(ask(sessionOf(first.session)), { code: 'SESSION_UNKNOWN' });
  });
  it('ends a session when the password changes or the user goes', async () => {
    const { session } = await ask(basic('demo'));
    await writeUsers({ password: await hashPassword('changed') });
    await assert.rejects(ask(sessionOf(session)), { code: 'SESSION_UNKNOWN' });
  });
  it('tells who a caller is by now, until he is banned or has another password', async () => {
    for (const who of [basic('demo'), consignor(demo)]) {
      await writeUsers();
      const { caller, renew } = await ask(who);
      assert.deepEqual(await renew(), caller);
      await writeUsers({ role: 'admin' });
      assert.equal((await renew()).role, 'admin');
      await writeUsers({ role: 'banned' });
      await assert.rejects(renew(), { code: 'FORBIDDEN' });
      await writeUsers();
      assert.equal((await renew()).role, 'user', 'and again');
    }
    const { renew } = await ask(basic('demo'));
    await writeUsers({ password: await hashPassword('another') });
    await assert.rejects(renew(), { code: 'UNAUTHENTICATED' });
  });

  it('refuses a session once its user is banned', async () => {
    const { session } = await ask(basic('demo'));
    await writeUsers({ role: 'banned' });
    await assert.rejects(ask(sessionOf(session)), { code: 'FORBIDDEN' });
  });
  it('shows in a session who its user is by now, and where each request comes from', async () => {
    const { session } = await ask(basic('demo'));
    assert.equal((await ask(sessionOf(session))).caller.role, 'user');
    await writeUsers({ role: 'admin' });
    assert.equal((await ask(sessionOf(session))).caller.role, 'admin');
    const from = (peer: string) => ask({ ...sessionOf(session), 'x-unicore-consignor-ip': peer });
    assert.equal((await from('192.0.2.1')).caller.peer, '192.0.2.1');
    assert.equal((await from('192.0.2.2')).caller.peer, '192.0.2.2');
  });
  it('keeps preferences in the session, each until overridden', async () => {
    const { session, caller } = await ask({
      ...basic('demo'),
      ...prefer('Group:proj1, supgids:users'),
    });
    assert.equal(caller.attributes.group, 'proj1');
    const later = await ask({ ...sessionOf(session), ...prefer('pgid:users') });
    assert.equal(later.caller.attributes.group, 'users');
    const last = await ask(sessionOf(session));
    assert.equal(last.caller.attributes.group, 'users');
    assert.deepEqual(last.caller.attributes.supplementaryGroups, ['users']);
  });
  it('lets an administrator be a mere user', async () => {
    assert.equal((await ask(basic('root'))).caller.role, 'admin');
    assert.equal((await ask({ ...basic('root'), ...prefer('role:user') })).caller.role, 'user');
  });
  it('ends a client’s own oldest session above the limit, nobody else’s', async () => {
    const other = await ask(basic('root'));
    const elsewhere = await ask({ ...basic('demo'), 'x-unicore-consignor-ip': '192.0.2.9' });
    const own: string[] = [];
    for (let i = 0; i < 4; i++) own.push((await ask(basic('demo'))).session);
    await assert.rejects(ask(sessionOf(own[0]!)), { code: 'SESSION_UNKNOWN' });
    for (const id of [...own.slice(1), other.session, elsewhere.session]) await ask(sessionOf(id));
  });
  it('forgets ended sessions without being asked for them', async () => {
    await ask(basic('demo'));
    now += 28_800_000;
    await ask(basic('root'));
    assert.equal(sessions.size, 1);
  });

  it('is what policies decide upon', async () => {
    const { own } = resourcePolicies<{ owner: string }, unknown>('thing', ({ owner }) => ({
      ownerDn: owner,
      acl: [],
    }));
    const of = async (headers: Headers, owner: string) =>
      (await decide(own, (await ask(headers)).caller, { owner }, {})).allowed;
    assert.equal(await of(basic('demo'), demo), true);
    assert.equal(await of(basic('demo'), 'cn=demo user, o=vsite, c=eu'), true);
    assert.equal(await of(basic('demo'), 'CN=Root'), false);
    assert.equal(await of(basic('root'), demo), true);
    assert.equal(await of({ ...basic('root'), ...prefer('role:user') }, demo), false);
    assert.equal(await of(consignor('CN=Stranger'), 'CN=Stranger'), false);
    const { caller } = await ask(basic('demo'));
    assert.equal((await decide(hasRole('admin'), caller, {}, {})).allowed, false);
  });
});
