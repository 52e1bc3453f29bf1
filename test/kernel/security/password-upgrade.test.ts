import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { silentLog } from '#kernel/log.js';
import { createAuthenticator } from '#kernel/security/authenticate.js';
import { createPasswordCommand, PasswordCommand } from '#kernel/security/password-backend.js';
import { Sessions } from '#kernel/security/sessions.js';
import { addUser, openUsers, parsePasswordLine, type Users } from '#kernel/security/users.js';

const log = silentLog;
const md5 = (salt: string, password: string): string =>
  createHash('md5').update(salt + password).digest('hex'); // prettier-ignore

describe('passwords from elsewhere', () => {
  let directory: string;
  before(async () => (directory = await mkdtemp(join(tmpdir(), 'upgrade-'))));
  after(() => rm(directory, { recursive: true, force: true }));

  async function login(users: Users, user: string, password: string, command?: string[]) {
    const backends = command ? [createPasswordCommand(PasswordCommand.parse({ command }))] : [];
    const authenticate = createAuthenticator({
      ...{ users, backends, log, sessions: new Sessions(), trustedSigners: [] },
    });
    const request = new IncomingMessage(new Socket());
    const text = Buffer.from(`${user}:${password}`).toString('base64');
    request.headers = { authorization: `Basic ${text}` };
    const answer: Record<string, string> = {};
    const response = {
      setHeader: (name: string, value: unknown) => (answer[name] = String(value)) as never,
    };
    const caller = await authenticate(request, response);
    request.headers = { 'x-unicore-securitysession': answer['X-UNICORE-SecuritySession'] };
    await authenticate(request, response); // the session has outlived the change
    return caller;
  }

  it("in UNICORE's form let in, and are stored anew by the first login", async () => {
    const file = join(directory, 'users.yaml');
    const line = `demo:${md5('s4lt', 'test123')}:s4lt:CN=Demo User, O=Grid`;
    await addUser(file, parsePasswordLine(line));
    const users = await openUsers(file, { log });
    await assert.rejects(login(users, 'demo', 'wrong'), { code: 'UNAUTHENTICATED' });
    assert.match(await readFile(file, 'utf8'), /password: md5:s4lt:/);
    assert.equal((await login(users, 'demo', 'test123')).dn, 'CN=Demo User,O=Grid');
    assert.match(await readFile(file, 'utf8'), /password: scrypt:/);
    await login(users, 'demo', 'test123');
    await assert.rejects(login(users, 'demo', 'wrong'), { code: 'UNAUTHENTICATED' });
  });

  it('are stored anew while others add users, and nothing is lost', async () => {
    const file = join(directory, 'busy.yaml');
    const names = ['a', 'b', 'c', 'd'];
    for (const name of names)
      await addUser(file, { name, dn: `CN=${name}`, storedPassword: `md5::${md5('', name)}` });
    const users = await openUsers(file, { log });
    await Promise.all([
      ...names.map((name) => login(users, name, name)),
      ...names.map((name) => addUser(file, { name: `${name}2`, dn: `CN=${name}2` })),
    ]);
    const text = await readFile(file, 'utf8');
    assert.equal(text.match(/password: scrypt:/g)?.length, 4);
    assert.equal(text.match(/- name: /g)?.length, 8);
  });

  it('are not replaced by an old one that was changed meanwhile', async () => {
    const file = join(directory, 'changed.yaml');
    await writeFile(file, 'users: [{ name: a, dn: CN=a }]\n');
    const users = await openUsers(file, { log });
    assert.equal(await users.replacePassword('a', `md5::${md5('', 'x')}`, 'scrypt:…'), false);
    assert.doesNotMatch(await readFile(file, 'utf8'), /password/);
  });

  for (const line of ['', 'a:b:c:CN=a', `a:${md5('', 'x')}:s`, `a:${md5('', 'x')}`])
    it(`"${line}" is no line of a password file`, () => {
      assert.throws(() => parsePasswordLine(line), { code: 'BAD_REQUEST' });
    });

  describe('checked by a program', () => {
    /** Speaks the protocol of pwauth: two lines in, the answer by its exit status. */
    const script = 'read -r user; read -r password; [ "$user:$password" = "carol:s3cret word" ]';
    const sh = ['/bin/sh', '-c', script];
    let users: Users;
    before(async () => {
      const file = join(directory, 'some.yaml');
      await addUser(file, { name: 'own', dn: 'CN=Own', password: 'mine' });
      users = await openUsers(file, { log });
    });

    it('let in whom the users file does not know', async () => {
      const { dn, role, login: account, method } = await login(users, 'carol', 's3cret word', sh);
      const expected = ['CN=carol,OU=pam-local-users', 'user', 'carol', 'PAM'];
      assert.deepEqual([dn, role, account, method], expected);
    });
    it('refuse the rest, and what would be more than two lines', async () => {
      const wrong = ['guess', '', 's3cret word\nx', 'x\0'];
      for (const password of wrong)
        await assert.rejects(login(users, 'carol', password, sh), { code: 'UNAUTHENTICATED' });
      const yes = ['/bin/true'];
      for (const name of ['carol\nroot', '-x', 'a,O=Admin', '../x', ''])
        await assert.rejects(login(users, name, 'x', yes), { code: 'UNAUTHENTICATED' });
    });
    it('have no say about users who have a password here', async () => {
      await assert.rejects(login(users, 'own', 'guess', ['/bin/true']), {
        code: 'UNAUTHENTICATED',
      });
    });
    it('say so when the program does not answer', async () => {
      await assert.rejects(login(users, 'carol', 'x', ['/no/such/program']), {
        code: 'SITE_UNAVAILABLE',
      });
    });
  });
});
