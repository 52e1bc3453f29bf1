import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { silentLog } from '#kernel/log.js';
import { hashPassword, PasswordChecker } from '#kernel/security/password.js';
import { addUser, openUsers } from '#kernel/security/users.js';

describe('users file', () => {
  let directory: string;
  before(async () => (directory = await mkdtemp(join(tmpdir(), 'users-'))));
  after(() => rm(directory, { recursive: true, force: true }));
  const demo = { name: 'demo', dn: 'cn=Demo User, O=VSite', password: 'secret' };

  it('is made by the first user, for its owner only, and holds no password', async () => {
    const file = join(directory, 'first.yaml');
    await addUser(file, demo);
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    assert.doesNotMatch(await readFile(file, 'utf8'), /secret/);
    const users = await openUsers(file, { log: silentLog });
    const user = await users.findByName('demo');
    assert.equal(user?.dn, 'CN=Demo User,O=VSite');
    assert.equal(user.role, 'user');
    assert.equal((await users.findByDn('CN=demo user,o=VSITE'))?.name, 'demo');
    assert.equal(await users.findByName('toString'), undefined);
  });
  it('keeps comments and other users when one is added', async () => {
    const file = join(directory, 'comments.yaml');
    await writeFile(file, '# ours\nusers:\n  - { name: a, dn: CN=a } # the first\n');
    await addUser(file, { name: 'b', dn: 'CN=b', groups: ['proj1'] });
    const text = await readFile(file, 'utf8');
    assert.match(text, /# ours/);
    assert.match(text, /# the first/);
    const users = await openUsers(file, { log: silentLog });
    assert.deepEqual((await users.findByName('b'))?.groups, ['proj1']);
    assert.ok(await users.findByName('a'));
  });
  it('has each name and each DN once', async () => {
    const file = join(directory, 'twice.yaml');
    await addUser(file, { name: 'a', dn: 'CN=a' });
    await assert.rejects(addUser(file, { name: 'a', dn: 'CN=b' }), { code: 'CONFLICT' });
    await assert.rejects(addUser(file, { name: 'b', dn: 'cn=A' }), { code: 'CONFLICT' });
    await writeFile(file, 'users: [{ name: a, dn: CN=a }, { name: b, dn: CN=A }]');
    await assert.rejects(openUsers(file, { log: silentLog }), { code: 'CONFIG_INVALID' });
  });
  for (const user of [
    { name: 'a:b', dn: 'CN=a' },
    { name: '', dn: 'CN=a' },
    { name: 'a', dn: 'nonsense' },
    { name: 'a', dn: 'CN=a', login: '-rf' },
    { name: 'a', dn: 'CN=a', password: '' },
  ])
    it(`refuses ${JSON.stringify(user)}`, () =>
      assert.rejects(addUser(join(directory, 'none.yaml'), user), { code: 'BAD_REQUEST' }));
  for (const text of [
    'users: [{ name: a, dn: CN=a, role: root }]',
    'users: 7',
    'nothing: 1',
    'users: [',
    '',
  ]) {
    it(`refuses the file ${text}`, async () => {
      const file = join(directory, 'bad.yaml');
      await writeFile(file, text);
      await assert.rejects(openUsers(file, { log: silentLog }), { code: 'CONFIG_INVALID' });
    });
  }

  it('is read again when it changes, and the last good one stays while it is broken', async () => {
    const file = join(directory, 'reload.yaml');
    await writeFile(file, 'users: [{ name: a, dn: CN=a }]');
    const users = await openUsers(file, { log: silentLog, recheckMs: 0 });
    await writeFile(file, 'users: [{ name: a, dn: CN=a, role: banned }]');
    assert.equal((await users.findByName('a'))?.role, 'banned');
    await writeFile(file, 'users: [');
    assert.equal((await users.findByName('a'))?.role, 'banned');
    await rm(file);
    assert.equal((await users.findByName('a'))?.role, 'banned');
    await writeFile(file, 'users: []');
    assert.equal(await users.findByName('a'), undefined);
  });
});

describe('passwords', () => {
  it('are accepted when right, and remembered for a while', async () => {
    let now = 0;
    const clock = { now: () => now, sleep: () => Promise.resolve() };
    const checker = new PasswordChecker({ clock, rememberMs: 1000 });
    const stored = await hashPassword('grün');
    assert.ok(await checker.check('grün', stored));
    assert.ok(await checker.check('grün', stored));
    assert.equal(checker.computed, 1);
    now = 2000;
    assert.ok(await checker.check('grün', stored));
    assert.equal(checker.computed, 2);
  });
  it('that are wrong cost a computation each time, as do unknown users', async () => {
    const checker = new PasswordChecker();
    const stored = await hashPassword('right');
    for (const form of [stored, stored, undefined, undefined])
      assert.equal(await checker.check('wrong', form), false);
    assert.equal(checker.computed, 4);
  });
  it('that were remembered count no more once they are changed', async () => {
    const checker = new PasswordChecker();
    const [old, now] = await Promise.all([hashPassword('old'), hashPassword('new')]);
    assert.ok(await checker.check('old', old));
    assert.equal(await checker.check('old', now), false);
  });
  it('are computed once for all who wait for the same, and a few at a time', async () => {
    const checker = new PasswordChecker({ concurrency: 1, queueLength: 1 });
    const stored = await hashPassword('right');
    const same = await Promise.all([1, 2, 3].map(() => checker.check('right', stored)));
    assert.deepEqual(same, [true, true, true]);
    assert.equal(checker.computed, 1);
    const [first, second, third] = ['a', 'b', 'c'].map((text) => checker.check(text, stored));
    await assert.rejects(third!, { code: 'SITE_UNAVAILABLE' });
    assert.deepEqual(await Promise.all([first, second]), [false, false]);
  });
  it('that are no hashes never match', async () => {
    const checker = new PasswordChecker();
    for (const stored of ['', 'plain', 'scrypt:30:8:1:AAAAAAAAAAAAAAAA:A'])
      assert.equal(await checker.check('plain', stored), false);
  });
});
