import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import { Scope } from '#kernel/scope.js';
import { decodeMachineClock } from '#tsi/protocol/machine-clock.js';
import { decodeMachineIdentity, type MachineIdentity } from '#tsi/protocol/machine-identity.js';
import { isRoot, scratch } from './agent-process.js';

const identity: MachineIdentity = {
  hostName: 'vsite-01234567',
  machineId: '0123456789abcdef0123456789abcdef',
  seed: Buffer.alloc(64, 7).toString('base64'),
  timeMs: Date.now(),
  isCopy: false,
};

describe('the identity of a machine', () => {
  it('is read as it was written', () => {
    assert.deepEqual(decodeMachineIdentity(JSON.stringify(identity)), identity);
  });

  for (const [name, value] of [
    ['hostName', 'a\nb'],
    ['hostName', ''],
    ['machineId', '../etc'],
    ['seed', 'c2hvcnQ='],
    ['timeMs', -1],
    ['isCopy', 'yes'],
  ] as const)
    it(`is refused with ${name} ${JSON.stringify(value)}`, () => {
      const json = JSON.stringify({ ...identity, [name]: value });
      assert.throws(() => decodeMachineIdentity(json), { code: 'TSI_PROTOCOL' });
    });

  it('leaves nothing of the former one', { skip: !isRoot && 'needs root' }, async () => {
    await using scope = new Scope();
    const root = scratch(scope);
    for (const folder of ['etc/ssh', 'var/lib/dbus', 'var/lib/systemd', 'run'])
      mkdirSync(join(root, folder), { recursive: true });
    const put = (path: string, text: string): void => writeFileSync(join(root, path), text);
    const read = (path: string): string => readFileSync(join(root, path), 'utf8');
    const former = hostname();
    put('etc/hosts', `127.0.0.1 localhost\n127.0.1.1 ${former} other\n`);
    put('etc/machine-id', `${'f'.repeat(32)}\n`);
    put('var/lib/dbus/machine-id', `${'f'.repeat(32)}\n`);
    put('var/lib/systemd/random-seed', 'old');
    // a host name of its own: this machine keeps the one it has
    const script = `
      import { assumeIdentity } from '#tsi/agent/machine-identity.js';
      import { hostname } from 'node:os';
      const now = { timeMs: Date.now() }; // the clock is the host's: it is right
      await assumeIdentity({ ...${JSON.stringify(identity)}, ...now }, performance.now(), ${JSON.stringify(root)});
      console.log(hostname());`;
    const node = [
      ...process.execArgv.filter((arg) => !arg.startsWith('--test')),
      '--input-type=module',
    ];
    const args = ['--uts', '--', process.execPath, ...node, '--eval', script];
    const { stdout } = await promisify(execFile)('unshare', args);
    assert.equal(stdout.trim(), identity.hostName);
    assert.equal(hostname(), former);
    assert.equal(read('etc/hostname').trim(), identity.hostName);
    assert.equal(read('etc/hosts'), `127.0.0.1 localhost\n127.0.1.1 ${identity.hostName} other\n`);
    for (const path of ['etc/machine-id', 'var/lib/dbus/machine-id'])
      assert.equal(read(path).trim(), identity.machineId);
    assert.throws(() => read('var/lib/systemd/random-seed'));
  });
});

describe('what a machine that stood still is told', () => {
  const seed = Buffer.alloc(64, 7).toString('base64');
  it('is the time and a seed', () =>
    assert.deepEqual(decodeMachineClock(JSON.stringify({ timeMs: 5, seed })), { timeMs: 5, seed }));

  for (const [field, json] of [
    ['timeMs', JSON.stringify({ timeMs: -1, seed })],
    ['timeMs', JSON.stringify({ timeMs: 'now', seed })],
    ['seed', JSON.stringify({ timeMs: 5, seed: 'short' })],
    ['json', '{'],
  ] as const)
    it(`is refused by its ${field}: ${json.slice(0, 30)}`, () =>
      assert.throws(() => decodeMachineClock(json), { code: 'TSI_PROTOCOL', details: { field } }));
});
