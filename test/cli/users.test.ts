import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, it, mock } from 'node:test';
import { Command } from 'commander';
import { addUserCommands } from '#cli/user-commands.js';

describe('vsite user', () => {
  let dir = '';
  let users = '';
  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'vsite-users-'));
    users = join(dir, 'users.yaml');
    writeFileSync(users, 'users: []\n');
  });
  after(() => rmSync(dir, { recursive: true, force: true }));

  async function user(args: readonly string[], input = ''): Promise<void> {
    const command = new Command('user').option('--json').exitOverride();
    addUserCommands(command, Readable.from([Buffer.from(input)]));
    await command.parseAsync(args, { from: 'user' });
  }
  /** What it prints that is JSON; the runner of tests writes there, too. */
  async function printed(args: readonly string[], input = ''): Promise<unknown[]> {
    const results: unknown[] = [];
    const write = process.stdout.write.bind(process.stdout) as (...args: unknown[]) => boolean;
    const mocked = mock.method(process.stdout, 'write', (...written: unknown[]) => {
      const [text] = written;
      if (typeof text !== 'string' || !/^[[{]/.test(text)) return write(...written);
      results.push(JSON.parse(text));
      return true;
    });
    try {
      await user(args, input);
    } finally {
      mocked.mock.restore();
    }
    return results;
  }
  const json = async (args: readonly string[]): Promise<unknown> =>
    (await printed(['--json', ...args]))[0];

  it('add takes a password of a line, and nothing that is longer than any', async () => {
    const alice = ['add', 'alice', '--users', users, '--dn', 'CN=Alice,O=Grid'];
    await assert.rejects(user(alice, 'x'.repeat(5_000)), { code: 'BAD_REQUEST' });
    assert.equal(readFileSync(users, 'utf8'), 'users: []\n');
    await user(alice, 'secret\n');
    assert.match(readFileSync(users, 'utf8'), /name: alice\n(.*\n)*? +password: "?scrypt/);
  });

  it("import takes the lines of UNICORE's password file, or none of what makes no sense", async () => {
    const file = join(dir, 'passwords');
    const hash = createHash('md5').update('saltsecret').digest('hex');
    writeFileSync(
      file,
      `# users\n\nhans:${hash}:salt:CN=Hans,O=Grid\neva:${hash}:salt:CN=Eva,O=Grid\n`,
    );
    assert.deepEqual(await json(['import', file, '--users', users]), { added: ['hans', 'eva'] });
    const imported = readFileSync(users, 'utf8');
    assert.match(imported, new RegExp(`name: hans\n(.*\n)*? +password: "?md5:salt:${hash}`));
    writeFileSync(file, `ida:${hash}:salt:CN=Ida,O=Grid\nnonsense\n`);
    await assert.rejects(user(['import', file, '--users', users]), { code: 'BAD_REQUEST' });
    assert.equal(readFileSync(users, 'utf8'), imported);
    await assert.rejects(user(['import', join(dir, 'none'), '--users', users]), { code: 'ENOENT' });
  });

  it('says for programs what has changed', async () => {
    const bob = ['add', 'bob', '--users', users, '--dn', 'CN=Bob,O=Grid'];
    assert.deepEqual(await json(bob), { added: ['bob'] });
    const database = ['--database', `sqlite:${join(dir, 'json.sqlite')}`];
    const dn = 'CN=*,O=Maths';
    assert.deepEqual(await json(['map', 'add', dn, ...database, '--role', 'user']), {
      added: [dn],
    });
    assert.deepEqual(await json(['map', 'list', ...database]), [{ dn, role: 'user' }]);
    assert.deepEqual(await json(['map', 'remove', dn, ...database]), { deleted: [dn] });
  });

  it('map add, list and remove keep a table of names', async () => {
    const database = ['--database', `sqlite:${join(dir, 'map.sqlite')}`];
    await user(['map', 'add', 'CN=*,O=Physics', ...database, '--role', 'user', '--login', 'phys']);
    await user(['map', 'add', 'CN=Bob,O=Grid', ...database, '--role', 'banned']);
    await user(['map', 'remove', 'CN=Bob,O=Grid', ...database]);
    assert.deepEqual(await printed(['map', 'list', ...database]), [
      { dn: 'CN=*,O=Physics', role: 'user', logins: ['phys'] },
    ]);
  });
});
