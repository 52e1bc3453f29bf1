import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readdirSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { makeAgentDisk } from '#cli/image/agent-disk.js';
import { Scope } from '#kernel/scope.js';
import { findReason } from '../grid/grid.js';
import { linkTo, until } from '../tsi/agent-process.js';

const run = promisify(execFile);
const skip = findReason([
  ['mcopy', '-V'],
  ['mkfs.fat', '--help'],
]);

describe('the disk with our agent', { skip, timeout: 120_000 }, () => {
  let directory: string;
  let files: string;
  before(async () => {
    directory = mkdtempSync(join(tmpdir(), 'vsite-disk-'));
    const disk = join(directory, 'agent.img');
    await makeAgentDisk(disk);
    assert.match((await run('mlabel', ['-s', '-i', disk, '::'])).stdout, /VSITE/);
    files = join(directory, 'mounted');
    await run('mkdir', [files]);
    await run('mcopy', ['-s', '-i', disk, '::/*', files]);
    await run('chmod', ['-R', 'a+x', files]); // as a FAT file system is mounted
  });
  after(() => rm(directory, { recursive: true, force: true }));

  /** Starts the agent as a guest does, and asks it. */
  const answers = async (name: string): Promise<string> => {
    await using scope = new Scope();
    const properties = join(directory, `${name}.properties`);
    const socket = join(directory, `${name}.sock`);
    writeFileSync(properties, `tsi.link=unix:${socket}\ntsi.state_dir=${directory}/${name}\n`);
    // nothing of this host but its kernel and its shell
    const env = { PATH: '/nowhere', LD_LIBRARY_PATH: '/nowhere' };
    const agent = spawn('/bin/sh', [join(files, 'start'), properties], { stdio: 'ignore', env });
    scope.defer(async () => {
      if (agent.exitCode !== null) return;
      agent.kill('SIGKILL');
      await once(agent, 'exit');
    });
    await until('it listens', () => readdirSync(directory).includes(`${name}.sock`));
    return (await (await linkTo(scope, socket)).facts()).tsiVersion;
  };

  it('starts it by its own Node', async () => {
    assert.equal(await answers('own'), '11.2.1');
  });

  it('and by its own loader and libraries where Node finds none in the guest', async () => {
    chmodSync(join(files, 'node'), 0o644);
    assert.equal(await answers('loader'), '11.2.1');
  });

  it('leaves nothing beside it', () => {
    assert.deepEqual(
      readdirSync(directory).filter((name) => name.startsWith('.agent-disk')),
      [],
    );
  });
});
