import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, describe, it } from 'node:test';
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
    const command = new Command('user').exitOverride();
    addUserCommands(command, Readable.from([Buffer.from(input)]));
    await command.parseAsync(args, { from: 'user' });
  }

  it('add takes a password of a line, and nothing that is longer than any', async () => {
    const alice = ['add', 'alice', '--users', users, '--dn', 'CN=Alice,O=Grid'];
    await assert.rejects(user(alice, 'x'.repeat(5_000)), { code: 'BAD_REQUEST' });
    assert.equal(readFileSync(users, 'utf8'), 'users: []\n');
    await user(alice, 'secret\n');
    assert.match(readFileSync(users, 'utf8'), /name: alice\n(.*\n)*? +password: "?scrypt/);
  });

  it('map add, list and remove keep a table of names', async ({ mock }) => {
    const database = ['--database', `sqlite:${join(dir, 'map.sqlite')}`];
    await user(['map', 'add', 'CN=*,O=Physics', ...database, '--role', 'user', '--login', 'phys']);
    await user(['map', 'add', 'CN=Bob,O=Grid', ...database, '--role', 'banned']);
    await user(['map', 'remove', 'CN=Bob,O=Grid', ...database]);
    const written = mock.method(process.stdout, 'write', () => true);
    try {
      await user(['map', 'list', ...database]);
    } finally {
      written.mock.restore();
    }
    const lines = written.mock.calls.map(({ arguments: [text] }) => String(text));
    assert.deepEqual(
      lines.map((line) => JSON.parse(line) as unknown),
      [{ dn: 'CN=*,O=Physics', role: 'user', logins: ['phys'] }],
    );
  });
});
