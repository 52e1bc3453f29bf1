import assert from 'node:assert/strict';
import { lstatSync, mkdirSync, readlinkSync, statSync, writeFileSync, chmodSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { startStaging, type StagingRig } from './rig.js';

describe('staging from the description and on the target system', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let rig: StagingRig;
  before(async () => {
    rig = await startStaging(scope);
    writeFileSync(join(rig.directory, 'data.txt'), 'there\n', { mode: 0o644 });
    writeFileSync(join(rig.directory, 'secret'), 'x', { mode: 0o600 });
    mkdirSync(join(rig.directory, 'tree', 'sub'), { recursive: true });
    writeFileSync(join(rig.directory, 'tree', 'sub', 'leaf'), 'leaf\n');
    mkdirSync(join(rig.directory, 'results'));
    chmodSync(join(rig.directory, 'results'), 0o777);
  });
  after(() => scope.close());

  it('writes inline data, with permissions, modes and directories', async () => {
    const { job } = await rig.imports([
      { To: 'a/b', Data: ['one', 'two'], Permissions: 'rwxr-x---' },
      { To: 'c', Data: 'first\n' },
      { To: 'c', Data: 'second\n', Mode: 'append' },
      { To: 'c', Data: 'never', Mode: 'nooverwrite' },
      { To: 'empty', Data: '' },
    ]);
    assert.equal(rig.read(job, 'a/b'), 'one\ntwo');
    assert.equal(statSync(rig.path(job, 'a/b')).mode & 0o777, 0o750);
    assert.equal(rig.read(job, 'c'), 'first\nsecond\n');
    assert.equal(statSync(rig.path(job, 'c')).mode & 0o777, 0o600);
    assert.equal(rig.read(job, 'empty'), '');
  });

  it('copies and links files of the target system, and whole directories', async () => {
    const { directory } = rig;
    const { job } = await rig.imports([
      { From: `file://${directory}/data.txt`, To: 'in/' },
      { From: `file:${directory}/data.txt`, To: 'ro', ReadOnly: 'true' },
      { From: `link:${directory}/data.txt`, To: 'deep/link' },
      { From: `file://${directory}/tree`, To: 'tree' },
    ]);
    assert.equal(rig.read(job, 'in/data.txt'), 'there\n');
    assert.ok(lstatSync(rig.path(job, 'ro')).isSymbolicLink());
    assert.equal(readlinkSync(rig.path(job, 'deep/link')), `${directory}/data.txt`);
    assert.equal(rig.read(job, 'tree/sub/leaf'), 'leaf\n');
  });

  it('copies out to files of the target system, and keeps what must not be overwritten', async () => {
    const { directory } = rig;
    const job = await rig.makeJob({
      Imports: [{ To: 'out/result', Data: '42' }],
      Exports: [
        { From: 'out/result', To: `file://${directory}/results/r` },
        { From: 'out', To: `file://${directory}/results/all` },
      ],
    });
    await rig.stage(job, 'in');
    await rig.stage(job, 'out');
    assert.equal(statSync(join(directory, 'results', 'r')).size, 2);
    assert.equal(statSync(join(directory, 'results', 'all', 'result')).size, 2);
    const again = await rig.makeJob({
      Imports: [{ To: 'x', Data: 'new' }],
      Exports: [{ From: 'x', To: `file://${directory}/results/r`, Mode: 'nooverwrite' }],
    });
    await rig.stage(again, 'in');
    await assert.rejects(rig.stage(again, 'out'), { code: 'CONFLICT' });
  });

  it('has the rights of the user on the target system, not those of the server', async () => {
    if (process.getuid?.() !== 0) return; // then they are the same
    await assert.rejects(rig.imports([{ From: `file://${rig.directory}/secret`, To: 'x' }]), {
      message: /^Import of "x" from file:.*secret failed: .*Permission denied/,
    });
  });

  it('ignores a failure where it is told to, and says so in the log', async () => {
    const { job, log } = await rig.imports([
      { From: 'file:///there/is/none', To: 'x', FailOnError: false },
      { From: 'gsiftp://h/x', To: 'y', FailOnError: 'false' },
      { To: 'z', Data: 'z' },
    ]);
    assert.equal(rig.read(job, 'z'), 'z');

    assert.ok(
      log.some((line) => /"x".*failed: there is no \/there\/is\/none \(ignored\)/.test(line)),
    );
    assert.ok(log.some((line) => /"y".*"gsiftp" are not offered.*\(ignored\)/.test(line)));
  });

  it('does not do again what was done, and appends once', async () => {
    const { job } = await rig.imports([
      { To: 'a', Data: 'x' },
      { To: 'a', Data: 'y', Mode: 'append' },
    ]);
    writeFileSync(rig.path(job, 'a'), 'changed');
    assert.deepEqual(await rig.stage(job, 'in'), []);
    assert.equal(rig.read(job, 'a'), 'changed');
  });

  const refused: [string, object, RegExp][] = [
    ['leave the directory', { To: '../x', Data: '' }, /leads out of/],
    ['are directories', { To: 'tree', Data: '' }, /is a directory/],
  ];
  for (const [what, entry, message] of refused)
    it(`refuses targets that ${what}`, async () => {
      const tree = { From: `file://${rig.directory}/tree`, To: 'tree' };
      await assert.rejects(async () => {
        const job = await rig.makeJob({ Imports: [tree] });
        await rig.stage(job, 'in');
        const next = { ...job, description: { Imports: [tree, entry] } };
        await rig.stage(next, 'in');
      }, message);
    });
});
