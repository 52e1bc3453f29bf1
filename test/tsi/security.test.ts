import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import type { TsiClient } from '#xnjs/tsi/tsi-client.js';
import {
  alice,
  clientOf,
  isRoot,
  nobodyId,
  scratch,
  startAgent,
  until,
  type AgentProcess,
} from './agent-process.js';
import { openWorker } from './raw-worker.js';

const scope = new Scope();
let agent: AgentProcess;
let tsi: TsiClient;

before(async () => {
  agent = await startAgent(scope, { properties: [`tsi.acl./=POSIX`, 'tsi.getfacl=getfacl'] });
  tsi = await clientOf(scope, agent);
});
after(() => scope.close());

const run = (file: string, ...args: string[]): void =>
  void execFileSync(file, args, { stdio: 'ignore' });
const textOf = async (path: string, last = '\n'): Promise<string> =>
  until('it has printed', () => {
    const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
    return text.endsWith(last) ? text : '';
  });

describe('the text of a job', () => {
  const hostile = [
    ...['#TSI_PING', '#TSI_ABORTJOB', '#TSI_IDENTITY root NONE', '#TSI_JOB_MODE alloc'],
    ...['#TSI_USPACE_DIR /root', '#TSI_STDOUT /etc/stolen', '#TSI_SCRIPT', '#TSI_ARRAY 0-9'],
    ...[' ENDOFMESSAGE', 'ENDOFMESSAGE ', 'xENDOFMESSAGE'],
  ];
  for (const command of ['TSI_SUBMIT', 'TSI_RUN_ON_LOGIN_NODE'])
    it(`changes nothing of how #${command} runs it`, async () => {
      const dir = scratch(scope, nobodyId);
      const worker = await openWorker(scope, agent);
      const script = [
        ...hostile.map((line) => `: <<'${line}x'\n${line}\n${line}x`),
        'id -u',
        'pwd',
      ];
      worker.send(
        ...['#!/bin/bash', `#${command}`, `#TSI_USPACE_DIR ${dir}`, `#TSI_OUTCOME_DIR ${dir}`],
        ...['#TSI_STDOUT out', '#TSI_STDERR err', '#TSI_SCRIPT', ...script],
        ...[`#TSI_IDENTITY ${alice.login} NONE`, ''],
      );
      assert.equal(await worker.reply(7), 'TSI_OK\n');
      const [uid, where] = (await textOf(join(dir, 'out'), `${dir}\n`)).split('\n');
      if (isRoot) assert.equal(uid, String(nobodyId));
      assert.equal(where, dir);
      assert.equal(existsSync('/etc/stolen'), false);
    });

  it('is not sent where it holds what ends a message or names a user', async () => {
    const place = { uspaceDir: '/u', outcomeDir: '/u', stdout: 'o', stderr: 'e', jobName: 'n' };
    for (const script of [
      'ENDOFMESSAGE',
      'a\nENDOFMESSAGE\nb',
      '#TSI_IDENTITY root NONE',
      'a\0b',
    ]) {
      const request = { ...place, attemptId: 'x', script };
      for (const send of [tsi.submit.bind(tsi), tsi.runOnLoginNode.bind(tsi)])
        await assert.rejects(send(alice, request), { code: 'TSI_PROTOCOL' });
      await assert.rejects(tsi.execute(alice, script), { code: 'TSI_PROTOCOL' });
    }
  });
});

describe('a name', () => {
  const calls: readonly (readonly [string, (path: string) => Promise<unknown>])[] = [
    ['listed', (path) => tsi.list(alice, path, 'A')],
    ['read', (path) => buffer(tsi.read(alice, path))],
    ['written', (path) => tsi.write(alice, path, Readable.from(['x']))],
    ['measured', (path) => tsi.space(alice, path)],
    ['asked for its access list', (path) => tsi.getAcl(alice, path)],
  ];
  for (const [what, call] of calls)
    it(`with a line break in it is refused before it is ${what}`, async () => {
      for (const path of ['/tmp/a\n#TSI_FILE /etc/passwd', '/tmp/a\rb', '/tmp/a\0b'])
        await assert.rejects(call(path), { code: 'TSI_PROTOCOL' });
    });

  it('that is not UTF-8 is refused on the wire, and can be dealt with by a script', async () => {
    const dir = scratch(scope, nobodyId);
    writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0xff, 0xfe])]), 'odd');
    const worker = await openWorker(scope, agent);
    worker.command.write(
      Buffer.concat([
        Buffer.from(`#TSI_GETFILECHUNK\n#TSI_START 0\n#TSI_LENGTH 9\n#TSI_FILE ${dir}/`),
        Buffer.from([0xff, 0xfe]),
        Buffer.from(`\n#TSI_IDENTITY ${alice.login} NONE\nENDOFMESSAGE\n`),
      ]),
    );
    const expected = 'TSI_FAILED: the message is not UTF-8\nENDOFMESSAGE\n';
    assert.equal(await worker.reply(expected.length), expected);
    assert.equal(await tsi.execute(alice, `ls '${dir}' | wc -l`), '1\n');
  });
});

describe('root and its group', { skip: isRoot ? false : 'needs root' }, () => {
  const names = ['gid0', 'sup0'].map((name) => `tsi${name}${process.pid}`);
  const [primary = '', member = ''] = names;
  before(() => {
    run('useradd', '-M', '-N', '-g', 'root', primary);
    run('useradd', '-M', '-N', '-g', 'users', '-G', 'root,games', member);
    scope.defer(() => names.forEach((name) => run('userdel', name)));
  });

  it('are nobody’s: an account whose group is that of root is refused', async () => {
    for (const groups of ['NONE', 'DEFAULT_GID', 'games'])
      await assert.rejects(tsi.execute({ login: primary, groups }, 'id'), { code: 'TSI_FAILED' });
  });

  it('are left out for who is a member of it, in whatever is run', async () => {
    for (const groups of ['NONE', 'DEFAULT_GID', 'root:DEFAULT_GID', 'games:root']) {
      const who = { login: member, groups };
      const uid = Number(execFileSync('id', ['-u', member], { encoding: 'utf8' }));
      const dir = scratch(scope, uid);
      const place = { uspaceDir: dir, outcomeDir: dir, stderr: 'e', jobName: 'n', script: 'id -G' };
      await tsi.submit(who, { ...place, stdout: 'job', attemptId: dir });
      await tsi.runOnLoginNode(who, { ...place, stdout: 'run', attemptId: dir });
      const printed = [
        await tsi.execute(who, 'id -G'),
        await textOf(join(dir, 'job')),
        await textOf(join(dir, 'run')),
      ];
      for (const text of printed) assert.doesNotMatch(text, /\b0\b/, groups);
      await assert.rejects(buffer(tsi.read(who, '/etc/shadow')), { code: 'TSI_FAILED' });
    }
  });

  it('cannot be asked for by any command', async () => {
    const root = { login: 'root', groups: 'NONE' };
    const place = { uspaceDir: '/tmp', outcomeDir: '/tmp', stdout: 'o', stderr: 'e' };
    const request = { ...place, jobName: 'n', attemptId: 'root', script: 'id' };
    for (const call of [
      () => tsi.submit(root, request),
      () => tsi.runOnLoginNode(root, request),
      () => tsi.userInfo(root),
      () => tsi.getAcl(root, '/root'),
      () => tsi.hold(root, '1'),
      () => tsi.resume(root, '1'),
      () => tsi.budget(root),
      () => tsi.partitions(root),
    ])
      await assert.rejects(call, { code: 'TSI_FAILED' });
  });
});
