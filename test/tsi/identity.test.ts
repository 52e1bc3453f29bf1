import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import type { TsiClient } from '#xnjs/tsi/tsi-client.js';
import {
  clientOf,
  isRoot,
  scratch,
  startAgent,
  until,
  type AgentProcess,
} from './agent-process.js';

const login = `tsi${process.pid}`;
const run = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();

describe('identity switching', { skip: isRoot ? false : 'needs root' }, () => {
  const scope = new Scope();
  let agent: AgentProcess;
  let tsi: TsiClient;
  let ids: { readonly uid: number; readonly gid: number; readonly games: number };
  let dir: string;

  before(async () => {
    run('useradd', '-M', '-N', '-g', 'users', '-G', 'games,staff', '-d', '/tmp', login);
    scope.defer(() => run('userdel', login));
    ids = { uid: Number(run('id', '-u', login)), gid: Number(run('id', '-g', login)), games: 60 };
    agent = await startAgent(scope);
    tsi = await clientOf(scope, agent);
    dir = scratch(scope, ids.uid);
  });
  after(() => scope.close());

  const groupsOf = async (groups: string): Promise<[primary: string, all: string[]]> => {
    const printed = await tsi.execute({ login, groups }, 'id -gn; id -Gn; id -un');
    const [primary = '', all = '', name] = printed.split('\n');
    assert.equal(name, login);
    return [primary, all.split(' ').sort()];
  };

  const cases: readonly (readonly [string, string, readonly string[]])[] = [
    ['NONE', 'users', ['games', 'staff', 'users']],
    ['DEFAULT_GID', 'users', ['games', 'staff', 'users']],
    ['games', 'games', ['games']],
    ['games:DEFAULT_GID', 'games', ['games', 'staff', 'users']],
    ['users:games', 'users', ['games', 'users']],
    // what the user does not have is left out, and leaves nothing behind (§3, item 3)
    ['games:audio:DEFAULT_GID', 'games', ['games', 'staff', 'users']],
    ['audio', 'users', ['users']],
    ['root:DEFAULT_GID', 'users', ['games', 'staff', 'users']],
    ['root', 'users', ['users']],
    ['nosuchgroup', 'users', ['users']],
    ['users:root:root', 'users', ['users']],
  ];
  for (const [groups, primary, all] of cases)
    it(`${groups} gives ${all.join()}`, async () => {
      assert.deepEqual(await groupsOf(groups), [primary, [...all]]);
    });

  for (const who of ['root', 'nosuchuser', '0', '-1', '../etc', 'toor'])
    it(`runs nothing as ${who}`, async () => {
      for (const call of [
        () => tsi.execute({ login: who, groups: 'NONE' }, 'id'),
        () => tsi.list({ login: who, groups: 'NONE' }, '/root', 'N'),
        () => buffer(tsi.read({ login: who, groups: 'NONE' }, '/etc/shadow')),
      ])
        await assert.rejects(call, { code: 'TSI_FAILED' });
    });

  it('lets files be seen, read and written as the user may, by group too, and no further', async () => {
    const secret = join(dir, 'secret');
    mkdirSync(secret, { mode: 0o750 });
    writeFileSync(join(secret, 'file'), 'x', { mode: 0o640 });
    run('chgrp', '-R', 'games', secret);
    const as = (groups: string) => ({ login, groups });
    assert.equal((await tsi.list(as('games'), secret, 'N')).length, 1);
    assert.equal(String(await buffer(tsi.read(as('games'), join(secret, 'file')))), 'x');
    assert.equal((await tsi.list(as('users'), secret, 'N')).length, 0);
    await assert.rejects(buffer(tsi.read(as('users'), join(secret, 'file'))), {
      code: 'TSI_FAILED',
    });
    await assert.rejects(tsi.write(as('games'), join(secret, 'new'), Readable.from(['x'])), {
      code: 'TSI_FAILED',
    });
    await assert.rejects(buffer(tsi.read(as('NONE'), '/etc/shadow')), { code: 'TSI_FAILED' });
    assert.deepEqual(await tsi.list(as('NONE'), '/root', 'N'), []);
  });

  it('makes files with the group asked for', async () => {
    const path = join(dir, 'grouped');
    await tsi.write({ login, groups: 'games' }, path, Readable.from(['x']));
    assert.deepEqual([statSync(path).uid, statSync(path).gid], [ids.uid, ids.games]);
  });

  it('starts a job in no directory that its owner cannot enter', async () => {
    const uspaceDir = '/root';
    const job = {
      uspaceDir,
      outcomeDir: dir,
      stdout: 'o',
      stderr: 'e',
      jobName: 'n',
      script: 'id',
    };
    await assert.rejects(tsi.submit({ login, groups: 'NONE' }, { ...job, attemptId: 'x1' }), {
      code: 'TSI_FAILED',
    });
  });

  it("does not let one user end, see or repeat another's job", async () => {
    const own = { login, groups: 'NONE' };
    const other = { login: 'nobody', groups: 'NONE' };
    const job = { uspaceDir: dir, outcomeDir: dir, stdout: 'o', stderr: 'e', jobName: 'n' };
    const id = await tsi.submit(own, { ...job, attemptId: 'same', script: 'sleep 600' });
    await assert.rejects(tsi.abort(other, id), { code: 'TSI_FAILED' });
    await assert.rejects(tsi.details(other, id), { code: 'TSI_FAILED' });
    const place = scratch(scope, 65_534);
    const theirs = {
      ...job,
      uspaceDir: place,
      outcomeDir: place,
      attemptId: 'same',
      script: 'true',
    };
    assert.notEqual(await tsi.submit(other, theirs), id);
    assert.ok((await tsi.status()).has(id));
    await tsi.abort(own, id);
  });

  it('gives a job the groups asked for, and HOME of its owner', async () => {
    const place = scratch(scope, ids.uid);
    const job = { uspaceDir: place, outcomeDir: place, stdout: 'o', stderr: 'e', jobName: 'n' };
    const script = 'id -Gn; echo $HOME; env | grep -c SECRET';
    const id = await tsi.submit({ login, groups: 'games' }, { ...job, attemptId: 'g', script });
    await until('it ends', async () => !(await tsi.status()).has(id));
    assert.equal(readFileSync(join(place, 'o'), 'utf8'), 'games\n/tmp\n0\n');
  });

  it('has its own ids again after each of many commands at once', async () => {
    const calls = Array.from({ length: 40 }, (_, at) =>
      at % 2 === 0
        ? tsi.list({ login, groups: 'games' }, '/etc', 'N')
        : tsi.execute({ login: 'nobody', groups: 'NONE' }, 'id -u'),
    );
    const results = await Promise.all(calls);
    for (const result of results) if (typeof result === 'string') assert.equal(result, '65534\n');
    const agentStatus = readFileSync(`/proc/${agent.child.pid ?? 0}/status`, 'utf8');
    assert.match(agentStatus, /^Uid:\t0\t0\t0\t0$/m);
  });

  it('refuses whom it should where unknown groups are an error', async () => {
    const strict = await clientOf(
      scope,
      await startAgent(scope, { properties: ['tsi.fail_on_invalid_gids=true'] }),
    );
    for (const groups of ['audio', 'root', 'games:audio', 'nosuchgroup'])
      await assert.rejects(strict.execute({ login, groups }, 'id'), { code: 'TSI_FAILED' });
    assert.equal(await strict.execute({ login, groups: 'games' }, 'id -gn'), 'games\n');
    rmSync(join(dir, 'grouped'), { force: true });
  });
});
