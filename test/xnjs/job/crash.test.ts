import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { jobStatus } from '#xnjs/job/status.js';
import { nodeFlags, program } from '../../program.js';
import { Agent, scratch, startEngine, startRig, targetId, until } from './rig.js';

describe('what a job survives', { timeout: 120_000 }, () => {
  it('runs each job exactly once though the engine is killed again and again', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const agent = new Agent(directory);
    scope.defer(() => agent.kill());
    await agent.start();
    const accepted = new Set<string>();
    // killed in the middle of submissions, of the first answers, of the last
    for (const { jobs, killAt } of [
      { jobs: 30, killAt: 'accepted 10' },
      { jobs: 30, killAt: 'accepted 30' },
      { jobs: 5, killAt: 'done 3' },
      { jobs: 5, killAt: 'done 12' },
    ])
      await runAndKill(directory, agent.socket, jobs, killAt, accepted);
    const { engine, finished } = await startEngine(scope, directory, agent.socket);
    for (const id of accepted) assert.equal(jobStatus(await finished(id, 60_000)), 'SUCCESSFUL');
    const { ids } = await engine.list({ targetId, offset: 0, num: 1_000 });
    for (const id of ids) await finished(id);
    const ran = readFileSync(join(directory, 'jobs', 'counts'), 'utf8')
      .trim()
      .split('\n');
    assert.deepEqual(ran.sort(), [...ids].sort());
  });

  it('waits for an agent that is away, and goes on when it is back', async () => {
    await using scope = new Scope();
    const rig = await startRig(scope, { config: { retryMaxMs: 500 } });
    const running = await rig.submit({ Executable: 'sleep 1; echo survived' });
    await until('it runs', async () => (await rig.engine.get(running)).state === 'RUNNING');
    await rig.agent.kill();
    const waiting = await rig.submit({ Executable: 'echo late' });
    const aborted = await rig.submit({ Executable: 'echo never' });
    await rig.engine.abort(aborted);
    assert.equal(jobStatus(await rig.finished(aborted)), 'FAILED');
    assert.equal((await rig.engine.get(waiting)).state, 'CREATED');
    await rig.agent.start();
    assert.equal(jobStatus(await rig.finished(waiting)), 'SUCCESSFUL');
    assert.equal(jobStatus(await rig.finished(running)), 'SUCCESSFUL');
    assert.equal(rig.output(running), 'survived\n');
  });

  it('fails the jobs of a lost target system at once, with the reason', async () => {
    await using scope = new Scope();
    const rig = await startRig(scope);
    const running = await rig.submit({ Executable: 'sleep 60' });
    const ready = await rig.submit({ haveClientStageIn: true, Executable: 'x' });
    await until('it runs', async () => (await rig.engine.get(running)).state === 'RUNNING');
    await rig.agent.kill();
    const waiting = await rig.submit({ Executable: 'x' });
    rig.targets.emit({ type: 'lost', targetId, reason: 'its qemu was killed' });
    for (const id of [running, ready, waiting]) {
      const job = await rig.finished(id, 1_000);
      assert.equal(jobStatus(job), 'FAILED');
      assert.match(job.run.result!.message, /target system .* lost: its qemu was killed/);
    }
    await rig.engine.destroy(running);
    await until(
      'record gone',
      async () => (await rig.engine.list({ offset: 0, num: 9 })).total === 2,
    );
    await rig.agent.start(); // the job was only said to be lost: let it end
  });

  it('destroys jobs whose life time is over', async () => {
    await using scope = new Scope();
    const rig = await startRig(scope, { config: { reaperIntervalMs: 50 } });
    const id = await rig.submit({ Executable: 'sleep 60' });
    await rig.engine.update(id, { terminationMs: Date.now() });
    await until(
      'it is gone',
      async () => (await rig.engine.list({ offset: 0, num: 9 })).total === 0,
    );
    await assert.rejects(rig.engine.get(id), { code: 'JOB_UNKNOWN' });
  });

  it('can be closed twice, and while it is busy', async () => {
    await using scope = new Scope();
    const rig = await startRig(scope);
    await Promise.all([1, 2, 3].map(() => rig.submit({ Executable: 'sleep 1' })));
    await Promise.all([rig.engine.close(), rig.engine.close()]);
    await assert.rejects(rig.submit({}), { code: 'SITE_UNAVAILABLE' });
  });
});

/** Lets a child submit jobs until it has said `<word>` so many times, then kills it. */
async function runAndKill(
  directory: string,
  socket: string,
  jobs: number,
  killAt: string,
  accepted: Set<string>,
): Promise<void> {
  const [killWord = '', times = ''] = killAt.split(' ');
  const child: ChildProcess = spawn(
    process.execPath,
    [
      ...[...nodeFlags, program('test/xnjs/job/crash-child.ts')],
      ...[directory, socket, String(jobs)],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const exited = once(child, 'exit');
  let left = Number(times);
  for await (const line of createInterface({ input: child.stdout! })) {
    const [word, id = ''] = line.split(' ');
    if (word === 'accepted') accepted.add(id);
    if (word === killWord && --left === 0) child.kill('SIGKILL');
  }
  await exited;
  assert.equal(child.signalCode, 'SIGKILL');
}
