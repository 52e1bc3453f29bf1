import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { putOff } from '#xnjs/job/put-off.js';
import { isAsThen } from '#xnjs/job/reverted.js';
import { aJob } from './samples.js';
import { targetId } from './rig.js';
import { ScriptedTsi, start } from './scripted.js';

const toMs = 100;

/** A job as it is now, and whether a machine of `toMs` knows it so. */
const cases = [
  ['has not begun', {}, true],
  ['has a directory of then', { directory: '/d', preparedMs: 90 }, true],
  ['has its directory since', { directory: '/d', preparedMs: 110 }, false],
  ['began to stage in since', { preparedMs: 90, stagingMs: 110 }, false],
  ['has staged in since', { preparedMs: 90, stagingMs: 95, stagedMs: 110 }, false],
  ['was submitted then', { state: 'RUNNING', run: { submittedMs: 99 } }, true],
  ['was submitted then and began to run since', { run: { submittedMs: 99, mainMs: 120 } }, true],
  ['was submitted since', { state: 'RUNNING', run: { submittedMs: 101 } }, false],
  ['has ended since', { state: 'STAGINGOUT', run: { submittedMs: 90, endedMs: 101 } }, false],
  [
    'had ended then and stages out',
    { state: 'STAGINGOUT', run: { submittedMs: 90, endedMs: 95, stageOutMs: 110 } },
    true,
  ],
  ['was restarted since', { run: { number: 2, startedMs: 110 } }, false],
  ['runs a command since', { run: { pre: { attemptId: 'a', startedMs: 101 } } }, false],
  [
    'ran a command, which ended since',
    { run: { pre: { attemptId: 'a', startedMs: 9, endedMs: 101 } } },
    false,
  ],
  ['is being aborted', { state: 'ABORTING', run: { submittedMs: 101 } }, true],
] as const;

describe('a job on a machine that was put back', () => {
  for (const [what, change, expected] of cases)
    it(`that ${what} ${expected ? 'goes on' : 'fails'}`, () =>
      assert.equal(isAsThen(aJob({ createdMs: 1, ...change }), toMs), expected));

  it('runs there no more if it is over, and stands still if its user has halted it', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, submit, reaches } = await start(scope, script);
    script.onSubmit = ({ attemptId }) => {
      script.listed.set(`bss-${attemptId}`, { state: 'RUNNING' });
      return Promise.resolve(`bss-${attemptId}`);
    };
    const [ended, halted, runs] = [await submit(), await submit(), await submit()];
    for (const id of [ended, halted, runs]) await reaches(id, 'RUNNING');
    const machine = { targetId, toMs: Date.now(), reason: 'put back' };
    script.listed.delete(`bss-${ended}-1`);
    await reaches(ended, 'DONE');
    await engine.pause(halted);
    const since = await submit();
    await reaches(since, 'RUNNING');

    await engine.machineReverted(machine);
    await reaches(since, 'DONE');
    assert.match((await engine.get(since)).run.result?.message ?? '', /put back/);
    assert.equal((await engine.get(ended)).run.result?.successful, true);
    for (const id of [halted, runs]) assert.notEqual((await engine.get(id)).state, 'DONE');
    script.held.length = 0;
    await engine.tidyReverted(machine);
    await engine.tidyReverted(machine);
    assert.deepEqual(new Set(script.aborted), new Set([`bss-${ended}-1`]));
    assert.deepEqual(new Set(script.held), new Set([`bss-${halted}-1`]));
  });
});

describe('jobs of a machine that was replaced', () => {
  it('are told and run again once, however often that is begun; those of the next machine never', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, store, submit, reaches } = await start(scope, script);
    script.onSubmit = ({ attemptId }) => {
      script.listed.set(`bss-${attemptId}`, { state: 'RUNNING' });
      return Promise.resolve(`bss-${attemptId}`);
    };
    const single = await submit();
    const again = await submit({ Executable: 'x', Restartable: true });
    for (const id of [single, again]) await reaches(id, 'RUNNING');
    const lost = { targetId, reason: 'it stopped', generation: 2, atMs: Date.now() };
    await engine.machineReplaced(lost);
    // not before: a machine that has stopped lists nothing, and jobs that a listing leaves out have ended by themselves
    for (const id of [single, again]) script.listed.delete(`bss-${id}-1`);
    await reaches(again, 'RUNNING');
    const next = await submit();
    await reaches(next, 'RUNNING');
    // the server died before it could note that this has been done
    await engine.machineReplaced(lost);
    assert.deepEqual(
      await Promise.all([single, again, next].map(async (id) => (await engine.get(id)).run.number)),
      [1, 2, 1],
    );
    assert.deepEqual(
      script.submissions.map(({ attemptId }) => attemptId).sort(),
      [`${single}-1`, `${again}-1`, `${again}-2`, `${next}-1`].sort(),
    );
    for (const id of [again, next]) assert.equal((await store.find(id))?.state, 'RUNNING');
    // one that ends by itself on the next machine is not run once more
    script.listed.delete(`bss-${again}-2`);
    await reaches(again, 'DONE');
    await engine.machineReplaced(lost);
    assert.equal((await engine.get(again)).run.number, 2);
    // and the next loss is another
    await engine.machineReplaced({ ...lost, generation: 3, atMs: Date.now() });
    assert.equal((await engine.get(next)).state, 'DONE');
  });
});

describe('the life time of a job', () => {
  it('does not count what its target system was parked, each time once', () => {
    const times = [
      { sinceMs: 1_000, untilMs: 3_000 },
      { sinceMs: 5_000, untilMs: 6_000 },
    ];
    const job = aJob({ createdMs: 500, terminationMs: 10_000 });
    const once = putOff(job, times.slice(0, 1));
    assert.equal(once.terminationMs, 12_000);
    assert.equal(putOff(once, times).terminationMs, 13_000);
    assert.equal(putOff(putOff(once, times), times).terminationMs, 13_000);
    const young = aJob({ createdMs: 2_500, terminationMs: 10_000 });
    assert.equal(putOff(young, times).terminationMs, 11_500, 'submitted while it was parked');
    assert.equal(putOff(aJob({ createdMs: 6_000 }), times).putOffMs, undefined);
  });

  it('does not end while that is parked, and is put off when it is not', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, store, submit, reaches, targets } = await start(scope, script);
    const id = await submit();
    await reaches(id, 'DONE');
    const before = (await engine.get(id)).terminationMs;
    const other = await store.expired(before + 1, 10, [targetId]);
    assert.deepEqual([other, await store.expired(before + 1, 10)], [[], [id]]);
    assert.ok(targets.find(targetId));
    const now = Date.now() + 60_000;
    await engine.putOff(targetId, [{ sinceMs: now, untilMs: now + 5_000 }]);
    assert.equal((await engine.get(id)).terminationMs, before + 5_000);
  });
});
