import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { consumedTime, jobStatus } from '#xnjs/job/status.js';
import { startRig, until, type Rig } from './rig.js';

/** Orphans may wait as zombies for whoever is process 1 here. */
function lives(pid: string): boolean {
  try {
    return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
  } catch {
    return false;
  }
}

describe('beside the batch system, on a real agent', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: Rig;
  before(async () => {
    rig = await startRig(scope);
  });
  after(() => scope.close());

  it('runs pre-command, job and post-command, and is quick about it', async () => {
    const startMs = Date.now();
    const id = await rig.submit({
      'User precommand': ['echo pre >> order', 'echo "in $V"'],
      Executable: 'echo main >> order; exit 0',
      'User postcommand': 'echo "post $UC_EXIT_CODE" >> order',
      Environment: { V: "it's" },
    });
    const job = await rig.finished(id);
    assert.equal(jobStatus(job), 'SUCCESSFUL', job.run.result?.message);
    assert.equal(rig.output(id, 'order'), 'pre\nmain\npost 0\n');
    assert.equal(rig.output(id, '.UNICORE_PRE_0/stdout'), "in it's\n");
    assert.notEqual(consumedTime(job, 0)['preCommand'], 'N/A');
    assert.ok(Date.now() - startMs < 5_000);
  });

  it('ends a job whose pre-command fails, with its code', async () => {
    const id = await rig.submit({ 'User precommand': 'exit 3', Executable: 'touch ran' });
    const job = await rig.finished(id);
    assert.match(job.run.result!.message, /pre-command ended with exit code 3/);
    assert.equal(existsSync(join(rig.directory, 'jobs', id, 'ran')), false);
  });

  it('ends a pre-command with all its processes when the job is aborted', async () => {
    const id = await rig.submit({
      'User precommand': 'sleep 100 & echo $! > pid; wait',
      Executable: 'x',
    });
    const path = join(rig.directory, 'jobs', id, 'pid');
    await until('it runs', () => existsSync(path) && readFileSync(path, 'utf8') !== '');
    await rig.engine.abort(id);
    await rig.finished(id);
    await until('all have ended', () => !lives(readFileSync(path, 'utf8').trim()));
  });

  it('runs a login-node job, with output, exit code and abort', async () => {
    const id = await rig.submit({ 'Job type': 'ON_LOGIN_NODE', Executable: 'echo hi; exit 4' });
    const job = await rig.finished(id);
    assert.deepEqual([rig.output(id), job.run.exitCode], ['hi\n', 4]);
    assert.match(job.run.bssId!, /^INTERACTIVE_localhost_\d+$/);
    const long = await rig.submit({ 'Job type': 'INTERACTIVE', Executable: 'sleep 100' });
    await until('it runs', async () => (await rig.engine.get(long)).state === 'RUNNING');
    await rig.engine.abort(long);
    const aborted = await rig.finished(long);
    await until('it has ended', () => !lives(aborted.run.pid!));
  });

  it('stands still while it is paused, and goes on', async () => {
    const id = await rig.submit({
      Executable: 'for i in 1 2 3 4 5 6; do echo $i > tick; sleep 0.3; done',
    });
    await until('it runs', () => existsSync(join(rig.directory, 'jobs', id, 'tick')));
    await until('RUNNING', async () => (await rig.engine.get(id)).state === 'RUNNING');
    await rig.engine.pause(id);
    assert.equal((await rig.engine.get(id)).state, 'PAUSED');
    await rig.engine.resume(id);
    assert.equal(jobStatus(await rig.finished(id)), 'SUCCESSFUL');
  });
});
