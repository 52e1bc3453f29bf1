import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
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
  isRehearsal: false,
};

/** In a namespace with a host name of its own: this machine keeps the one it has. @returns what it prints */
async function inside(script: string, root: string): Promise<string> {
  const program = `
    import { readFileSync } from 'node:fs';
    import { hostname } from 'node:os';
    import { assumeIdentity } from '#tsi/agent/machine-identity.js';
    const become = (more) => {
      const now = { timeMs: Date.now() }; // the clock is the host's: it is right
      const next = { ...${JSON.stringify(identity)}, ...now, ...more };
      return assumeIdentity(next, performance.now(), ${JSON.stringify(root)});
    };
    ${script}`;
  const node = process.execArgv.filter((arg) => !arg.startsWith('--test'));
  const args = ['--uts', '--', process.execPath, ...node, '--input-type=module', '--eval', program];
  return (await promisify(execFile)('unshare', args)).stdout.trim();
}

const noKeys = !existsSync('/usr/bin/ssh-keygen')
  ? 'ssh-keygen is not installed'
  : !isRoot && 'needs root';

describe('the identity of a machine', () => {
  it('is read as it was written', () => {
    assert.deepEqual(decodeMachineIdentity(JSON.stringify(identity)), identity);
  });

  it('of a server that knows no rehearsals is the real one', () => {
    const known = JSON.stringify({ ...identity, isRehearsal: undefined });
    assert.equal(decodeMachineIdentity(known).isRehearsal, false);
  });

  for (const [name, value] of [
    ['hostName', 'a\nb'],
    ['hostName', ''],
    ['machineId', '../etc'],
    ['seed', 'c2hvcnQ='],
    ['timeMs', -1],
    ['isCopy', 'yes'],
    ['isRehearsal', 1],
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
    assert.equal(
      await inside(`await become({}); console.log(hostname());`, root),
      identity.hostName,
    );
    assert.equal(hostname(), former);
    assert.equal(read('etc/hostname').trim(), identity.hostName);
    assert.equal(read('etc/hosts'), `127.0.0.1 localhost\n127.0.1.1 ${identity.hostName} other\n`);
    for (const path of ['etc/machine-id', 'var/lib/dbus/machine-id'])
      assert.equal(read(path).trim(), identity.machineId);
    assert.throws(() => read('var/lib/systemd/random-seed'));
  });

  it(
    'keeps host keys that were made in its rehearsal, and no others',
    { skip: noKeys },
    async () => {
      await using scope = new Scope();
      const root = scratch(scope);
      mkdirSync(join(root, 'etc/ssh'), { recursive: true });
      const file = join(root, 'etc/ssh/ssh_host_ed25519_key.pub');
      writeFileSync(file, 'of the former');
      const script = `
      const key = () => readFileSync(${JSON.stringify(file)}, 'utf8');
      await become({ hostName: 'vsite-76543210', isRehearsal: true });
      const others = key();
      await become({ isRehearsal: true });
      const rehearsed = key();
      await become({});
      console.log(others.startsWith('ssh-ed25519 '), others === rehearsed, rehearsed === key());`;
      assert.equal(await inside(script, root), 'true false true');
    },
  );
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
