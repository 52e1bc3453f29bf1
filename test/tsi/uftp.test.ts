import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { encodeFailed } from '#tsi/protocol/reply.js';
import { uftp } from '#tsi/protocol/commands.js';
import { inProject } from '../program.js';
import { pythonWith } from '../grid/clients/python.js';
import {
  alice,
  isRoot,
  nobodyId,
  scratch,
  startAgent,
  until,
  type AgentProcess,
} from './agent-process.js';
import { end, openWorker, type RawWorker } from './raw-worker.js';

const secret = 'one-time-secret';
const content = Buffer.from(Array.from({ length: 300_000 }, (_, at) => (at * 7) % 251));
const ok = `TSI_OK\n${end}`;

const scope = new Scope();
let agent: AgentProcess;
let worker: RawWorker;
let remote: string;
let port: number;

before(async () => {
  remote = scratch(scope);
  port = await startServer(remote);
  agent = await startAgent(scope);
  worker = await openWorker(scope, agent);
});
after(() => scope.close());

async function startServer(directory: string): Promise<number> {
  const python = await pythonWith(['pyftpdlib']);
  const args = [inProject('test/tsi/uftp-server.py'), directory, secret];
  const server = spawn(python, args, { stdio: ['ignore', 'pipe', 'ignore'] });
  scope.defer(async () => {
    server.kill('SIGKILL');
    if (server.exitCode === null && server.signalCode === null) await once(server, 'exit');
  });
  const [line] = (await once(server.stdout, 'data')) as [Buffer];
  return Number(line.toString());
}

type Values = Readonly<Record<string, string | number>>;

function messageOf(dir: string, operation: 'GET' | 'PUT', values: Values): string[] {
  const all: Values = { HOST: '127.0.0.1', PORT: port, SECRET: secret, ...values };
  return [
    '#TSI_UFTP',
    `#TSI_UFTP_OPERATION ${operation}`,
    ...Object.entries(all).map(([name, value]) => `#TSI_UFTP_${name} ${value}`),
    '#TSI_UFTP_OPERATION GET', // UNICORE/X adds it always
    `#TSI_USPACE_DIR ${dir}`,
    `#TSI_OUTCOME_DIR ${dir}/outcome`,
    '#TSI_STDOUT out',
    '#TSI_STDERR err',
    '#TSI_PID_FILE pid',
    '#TSI_EXIT_CODE_FILE code',
    `#TSI_IDENTITY ${alice.login} ${alice.groups}`,
  ];
}

/** @returns its exit code and what it said */
async function transfer(
  dir: string,
  operation: 'GET' | 'PUT',
  values: Values,
): Promise<{ code: number; out: string; err: string }> {
  const outcome = (name: string): string => readFileSync(join(dir, 'outcome', name), 'utf8');
  assert.equal(...(await worker.ask(messageOf(dir, operation, values), ok)));
  assert.match(outcome('pid'), /^\d+\n$/);
  const code = await until('the transfer ends', () => {
    const file = join(dir, 'outcome', 'code');
    return existsSync(file) && readFileSync(file, 'utf8');
  });
  return { code: Number(code), out: outcome('out'), err: outcome('err') };
}

const directory = (): string => scratch(scope, nobodyId);

describe('a UFTP transfer', () => {
  it('gets a file whole, as the user, to a path with blanks', async () => {
    const dir = directory();
    writeFileSync(join(remote, 'whole file'), content);
    const local = join(dir, 'my own file');
    const values = { REMOTE_FILE: '/whole file', LOCAL_FILE: local, WRITE_MODE: 'FULL' };
    const { code, err } = await transfer(dir, 'GET', { ...values, OFFSET: 0, LENGTH: -1 });
    assert.deepEqual([code, err], [0, '']);
    assert.ok(readFileSync(local).equals(content));
    if (isRoot) assert.equal(statSync(local).uid, nobodyId);
  });

  it('gets a range into the middle of a file that is there', async () => {
    const dir = directory();
    writeFileSync(join(remote, 'part'), content);
    const before = Buffer.alloc(content.length, 0xff);
    writeFileSync(join(dir, 'part'), before, { mode: 0o666 });
    if (isRoot) chownSync(join(dir, 'part'), nobodyId, nobodyId);
    const values = { REMOTE_FILE: '/part', LOCAL_FILE: 'part', WRITE_MODE: 'PARTIAL' };
    const { code } = await transfer(dir, 'GET', { ...values, OFFSET: 1000, LENGTH: 70_000 });
    assert.equal(code, 0);
    content.copy(before, 1000, 1000, 71_000);
    assert.ok(readFileSync(join(dir, 'part')).equals(before));
  });

  it('puts a file, and a range into the middle of one', async () => {
    const dir = directory();
    writeFileSync(join(dir, 'source'), content, { mode: 0o644 });
    const whole = { REMOTE_FILE: '/put', LOCAL_FILE: 'source' };
    assert.equal((await transfer(dir, 'PUT', whole)).code, 0);
    assert.ok(readFileSync(join(remote, 'put')).equals(content));

    const before = Buffer.alloc(content.length, 0xff);
    writeFileSync(join(remote, 'put'), before);
    const part = { ...whole, WRITE_MODE: 'PARTIAL', OFFSET: 5, LENGTH: 100_000 };
    assert.equal((await transfer(dir, 'PUT', part)).code, 0);
    content.copy(before, 5, 5, 100_005);
    assert.ok(readFileSync(join(remote, 'put')).equals(before));
  });

  it('says in its error file why it failed, and not the secret', async () => {
    const dir = directory();
    const values = { REMOTE_FILE: '/whole file', LOCAL_FILE: 'x', SECRET: 'a-wrong-one' };
    const { code, out, err } = await transfer(dir, 'GET', values);
    assert.notEqual(code, 0);
    assert.match(err, /No such session/);
    assert.doesNotMatch(out + err, /a-wrong-one/);
    assert.ok(!existsSync(join(dir, 'x')));
  });

  it('fails if the server has less than was asked for', async () => {
    const dir = directory();
    writeFileSync(join(remote, 'short'), 'abc');
    const values = { REMOTE_FILE: '/short', LOCAL_FILE: 'x', LENGTH: 10 };
    const { code, err } = await transfer(dir, 'GET', values);
    assert.notEqual(code, 0);
    assert.match(err, /3 of 10 bytes/);
  });
});

describe('values that would be commands to the server', () => {
  it('are refused by the agent', async () => {
    const values = { REMOTE_FILE: '/a\vDELE /b', LOCAL_FILE: 'x' };
    const expected = encodeFailed('TSI_UFTP_REMOTE_FILE holds a control character');
    assert.equal(...(await worker.ask(messageOf(directory(), 'GET', values), expected)));
  });

  it('are not sent to a TSI', () => {
    const places = { uspaceDir: '/a', outcomeDir: '/a', operation: 'GET', localFile: 'x' } as const;
    const value = { ...places, host: 'h', port: 1, secret: 's', remoteFile: 'a\nb' };
    assert.throws(() => uftp.encode(value, alice), { code: 'TSI_PROTOCOL' });
  });
});

describe('a TSI that speaks as those before 11', () => {
  it('answers nothing', async () => {
    const old = await startAgent(scope, { properties: ['tsi.version=10.4.0'] });
    const asked = await openWorker(scope, old);
    const values = { REMOTE_FILE: '/whole file', LOCAL_FILE: 'x' };
    const message = messageOf(directory(), 'GET', values);
    assert.equal(...(await asked.ask(message, end)));
  });
});
