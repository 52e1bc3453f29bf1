import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { OwnSnapshotFiles } from '#xnjs/vm/snapshots/snapshot-files.js';
import { flattenDisk } from '#xnjs/vm/snapshots/flatten-disk.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { scratch } from '../job/rig.js';
import { anImageMetadata, aTargetSystem } from './samples.js';

/** Programs that a server has started may outlive it (`kill -9`), and what they write to. */
describe('files of snapshots, after a server that was killed', () => {
  it('are not what its program still writes', async () => {
    await using scope = new Scope();
    const workspace = new Workspace(scratch(scope));
    const files = new OwnSnapshotFiles(workspace);
    const image = { id: 'i', metadata: anImageMetadata({ format: 'qcow2' }), parts: {} };
    const system = aTargetSystem({ image });
    const directory = workspace.directoryOf(system.id);
    const disk = join(directory, 'snapshots', 's', 'disk.qcow2');
    mkdirSync(dirname(disk), { recursive: true });
    writeFileSync(join(directory, 'overlay.qcow2'), 'as it was then');
    const straggler = openSync(`${disk}.new`, 'w');
    await files.keepDisk(system, 's');
    writeSync(straggler, 'what came later', 0);
    assert.equal(readFileSync(disk, 'utf8'), 'as it was then');
  });

  it('are made beside the one that its program still makes', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const [from, to] = [join(directory, 'from.qcow2'), join(directory, 'to.qcow2')];
    for (const file of [from, to])
      execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', file, '1M']);
    // keeps the file, and its lock, as `convert` does
    const straggler = spawn('qemu-nbd', ['-t', '-f', 'qcow2', '-k', join(directory, 'nbd'), to]);
    scope.defer(async () => {
      straggler.kill();
      await once(straggler, 'close');
    });
    const isLocked = (): boolean => {
      try {
        execFileSync('qemu-img', ['resize', '-q', to, '+1M'], { stdio: 'ignore' });
        return false;
      } catch {
        return true;
      }
    };
    for (let tries = 0; tries < 100 && !isLocked(); tries++) await new Promise(setImmediate);
    assert.ok(isLocked());
    const signal = new AbortController().signal;
    await flattenDisk(from, to, { vmId: 'x', tell: () => Promise.resolve(), signal });
    assert.match(execFileSync('qemu-img', ['info', to], { encoding: 'utf8' }), /1 MiB/);
  });
});
