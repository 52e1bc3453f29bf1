import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { OwnSnapshotFiles } from '#xnjs/vm/snapshots/snapshot-files.js';
import { flattenDisk } from '#xnjs/vm/snapshots/flatten-disk.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { scratch, until } from '../job/rig.js';
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
    const socket = join(directory, 'nbd');
    const straggler = spawn('qemu-nbd', ['-t', '-f', 'qcow2', '-k', socket, to]);
    const ended = once(straggler, 'close');
    scope.defer(async () => {
      straggler.kill();
      await ended;
    });
    // it listens when it has the lock, which a look at that could take away from it
    await until('the disk is in use', () => existsSync(socket));
    const signal = new AbortController().signal;
    await flattenDisk(from, to, { vmId: 'x', tell: () => Promise.resolve(), signal });
    assert.match(execFileSync('qemu-img', ['info', to], { encoding: 'utf8' }), /1 MiB/);
  });
});
