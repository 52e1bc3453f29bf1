import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { jobStatus } from '#xnjs/job/status.js';
import { endToEndSuite } from './end-to-end-suite.js';
import { startRig } from './rig.js';

describe('jobs on a real agent', { timeout: 120_000 }, () => {
  endToEndSuite(startRig);

  it('a job ends long before the interval between status listings is over', async () => {
    await using scope = new Scope();
    const hourMs = 3_600_000;
    const config = { statusIntervalMs: hourMs, statusMaxIntervalMs: hourMs };
    const rig = await startRig(scope, { config });
    for (const command of ['/bin/true', '/bin/sleep 1']) {
      const job = await rig.finished(await rig.submit({ Executable: command }));
      assert.equal(jobStatus(job), 'SUCCESSFUL');
    }
  });

  it('runs each task of a job array, as one job', async () => {
    await using scope = new Scope();
    const rig = await startRig(scope);
    const id = await rig.submit({
      Executable: 'echo "task $UC_ARRAY_TASK_ID" > "out$UC_ARRAY_TASK_ID"',
      Resources: { ArraySize: '4', ArrayLimit: '2' },
    });
    assert.equal(jobStatus(await rig.finished(id)), 'SUCCESSFUL');
    for (const task of [0, 1, 2, 3]) assert.equal(rig.output(id, `out${task}`), `task ${task}\n`);
  });
});
