import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { JobEvent } from '#xnjs/job/events.js';
import type { Plan } from '#xnjs/job/job.js';
import { step } from '#xnjs/job/state.js';
import type { JobState } from '#xnjs/job/transitions.js';
import { aJob, aPlan } from './samples.js';

const base = { atMs: 5_000, run: 1 } as const;
const facts = { name: 'n', jobType: 'BATCH', directory: '/j/j1/' } as const;
const plan = { ...aPlan, stagesIn: true };
const events = {
  prepared: { type: 'prepared', ...base, facts, plan },
  staged: { type: 'staged', ...base },
  due: { type: 'due', ...base },
  launched: { type: 'launched', ...base, pid: '11' },
  commandEnded: { type: 'commandEnded', ...base, exitCode: 0 },
  submitted: { type: 'submitted', ...base, bssId: '7' },
  allocated: { type: 'allocated', ...base, bssId: '8' },
  queued: { type: 'queued', ...base, queue: 'q' },
  running: { type: 'running', ...base, queue: 'q' },
  gone: { type: 'gone', ...base },
  held: { type: 'held', ...base },
  resumed: { type: 'resumed', ...base },
  refused: { type: 'refused', ...base, reason: 'not so' },
  finished: { type: 'finished', ...base, exitCode: 0 },
  stagedOut: { type: 'stagedOut', ...base },
  childrenMade: { type: 'childrenMade', ...base },
  swept: { type: 'swept', ...base },
  failed: { type: 'failed', ...base, reason: 'it broke' },
  stopped: { type: 'stopped', ...base },
  lost: { type: 'lost', atMs: 5_000, reason: 'target system t1 lost: gone' },
  removed: { type: 'removed', ...base },
  start: { type: 'start', atMs: 5_000 },
  restart: { type: 'restart', atMs: 5_000 },
  abort: { type: 'abort', atMs: 5_000 },
  destroy: { type: 'destroy', atMs: 5_000 },
  pause: { type: 'pause', atMs: 5_000 },
  resume: { type: 'resume', atMs: 5_000 },
} as const satisfies Record<JobEvent['type'], JobEvent>;

const shortcuts: Record<string, JobState> = {
  created: 'CREATED',
  prep: 'PREPROCESSING',
  ready: 'READY',
  delay: 'DELAYED',
  pre: 'PRECOMMAND',
  pending: 'PENDING',
  queued: 'QUEUED',
  running: 'RUNNING',
  pausing: 'PAUSING',
  paused: 'PAUSED',
  resuming: 'RESUMING',
  ended: 'POSTPROCESSING',
  post: 'POSTCOMMAND',
  out: 'STAGINGOUT',
  sweep: 'SWEEPING',
  abort: 'ABORTING',
  done: 'DONE',
  destr: 'DESTROYING',
  gone: 'DESTROYED',
};
/**
 * Every cell, for a job that does everything that a job can, was paused while it ran, and whose time has
 * not come; what is not named is illegal. `=` stays where it is.
 */
const table = `
created   prepared>prep failed>done start= restart= abort>abort lost>done destroy>destr
prep      staged>ready failed>done start= restart= abort>abort lost>done destroy>destr
ready     start>delay restart= abort>abort lost>done destroy>destr
delay     due>pre failed>done start= restart= abort>abort lost>done destroy>destr
pre       launched= commandEnded>pending failed>done start= restart= abort>abort lost>done destroy>destr
pending   submitted>queued failed>done start= restart= abort>abort lost>done destroy>destr
queued    queued= running>running allocated>running gone>ended failed>done pause>pausing start= restart= abort>abort lost>done destroy>destr
running   queued>queued running= gone>ended pause>pausing start= restart= abort>abort lost>done destroy>destr
pausing   queued= running= gone>ended held>paused resumed= refused>running pause= resume>resuming start= restart= abort>abort lost>done destroy>destr
paused    queued= running= gone>ended pause= resume>resuming start= restart= abort>abort lost>done destroy>destr
resuming  queued= running= gone>ended held= resumed>running refused>paused pause>pausing resume= start= restart= abort>abort lost>done destroy>destr
ended     queued>queued running>running gone= finished>post failed>done start= restart= abort>abort lost>done destroy>destr
post      queued= running= gone= launched= commandEnded>out failed>done start= restart= abort>abort lost>done destroy>destr
out       queued= running= gone= stagedOut>done failed>done start= restart= abort>abort lost>done destroy>destr
sweep     childrenMade= swept>done failed>done start= restart= abort>abort lost>done destroy>destr
abort     prepared= staged= due= launched= commandEnded= submitted= allocated= queued= running= gone= held= resumed= refused= finished= stagedOut= childrenMade= swept= failed= stopped>done start= restart= abort= lost>done destroy>destr
done      prepared= staged= due= launched= commandEnded= submitted= allocated= queued= running= gone= held= resumed= refused= finished= stagedOut= childrenMade= swept= failed= stopped= start= restart>created abort= lost= destroy>destr
destr     prepared= staged= due= launched= commandEnded= submitted= allocated= queued= running= gone= held= resumed= refused= finished= stagedOut= childrenMade= swept= failed= stopped= start= restart= abort= lost>gone destroy= removed>gone
gone
`;
const columns = Object.keys(events) as (keyof typeof events)[];
const withAttempt = (state: JobState) =>
  aJob({
    state,
    plan: {
      ...{ ...aPlan, stagesIn: true, stagesOut: true, waitsForClient: true },
      ...{ preCommand: { ignoreNonZeroExitCode: false }, notBeforeMs: 10_000 },
      postCommand: { ignoreNonZeroExitCode: false },
    },
    run: {
      ...{ attemptId: 'j1-1', heldFrom: 'RUNNING' },
      pre: { attemptId: 'j1-1-pre', startedMs: 2_000 },
      post: { attemptId: 'j1-1-post', startedMs: 3_000 },
    },
  });

describe('the life of a job', () => {
  for (const line of table.trim().split('\n')) {
    const [name = '', ...cells] = line.trim().split(/\s+/);
    const state = shortcuts[name]!;
    const row = new Map(cells.map((cell) => cell.split(/[=>]/) as [string, string]));
    it(`${state}: names only events that there are`, () => {
      assert.deepEqual(
        [...row.keys()].filter((type) => !(type in events)),
        [],
      );
    });
    for (const type of columns) {
      const cell = row.get(type);
      const next = cell === '' ? state : shortcuts[cell ?? ''];
      it(`${state} + ${type} -> ${next ?? 'illegal'}`, () => {
        const act = () => step(withAttempt(state), events[type]).job.state;
        if (next === undefined) assert.throws(act, { code: 'JOB_ILLEGAL_EVENT' });
        else assert.equal(act(), next);
      });
    }
  }

  const effects: [JobState, JobEvent, ...string[]][] = [
    ['CREATED', events.prepared, 'stageIn'],
    ['PREPROCESSING', events.staged],
    ['READY', events.start, 'wait'],
    ['DELAYED', events.due, 'launch', 'awaitCommand'],
    ['PRECOMMAND', events.commandEnded, 'submit'],
    ['PENDING', events.submitted, 'watch'],
    ['QUEUED', events.running, 'watch'],
    ['RUNNING', events.pause, 'hold'],
    ['PAUSING', events.held, 'watch'],
    ['PAUSED', events.resume, 'resume'],
    ['RESUMING', events.resumed, 'watch'],
    ['RUNNING', events.gone, 'collectExitCode'],
    ['POSTPROCESSING', events.finished, 'launch', 'awaitCommand'],
    ['POSTCOMMAND', events.commandEnded, 'stageOut'],
    ['STAGINGOUT', events.stagedOut],
    ['RUNNING', events.abort, 'stop'],
    ['STAGINGOUT', events.abort, 'stop'],
    ['ABORTING', events.stopped],
    ['ABORTING', events.submitted], // the stop that is asked for already will find it
    ['RUNNING', events.destroy, 'stop', 'removeDirectory'],
    ['DONE', events.restart, 'prepare'],
    ['RUNNING', events.lost],
  ];
  for (const [state, event, ...asked] of effects)
    it(`${state} + ${event.type} asks for ${asked.join(' and ') || 'nothing'}`, () => {
      const { effects: found, job } = step(withAttempt(state), event);
      assert.deepEqual(
        found.map((effect) => effect.do),
        asked,
      );
      if (asked.length > 0) assert.deepEqual(job.effects, found);
    });

  it('passes through states that have nothing to do', () => {
    const prepared = (plan: Partial<Plan>) =>
      step(aJob(), { ...events.prepared, plan: { ...aPlan, ...plan } }).job;
    assert.equal(prepared({}).state, 'PENDING');
    assert.equal(prepared({}).run.attemptId, 'j1-1');
    assert.equal(prepared({ waitsForClient: true }).state, 'READY');
    assert.equal(prepared({ notBeforeMs: 5_000 }).state, 'PENDING');
    assert.equal(prepared({ notBeforeMs: 5_001 }).state, 'DELAYED');
    assert.equal(prepared({ sweep: 2 }).state, 'SWEEPING');
    const command = { ignoreNonZeroExitCode: false };
    assert.equal(prepared({ preCommand: command }).run.pre?.attemptId, 'j1-1-pre');
    assert.equal(prepared({ executes: false, postCommand: command }).state, 'POSTCOMMAND');
    assert.equal(prepared({ executes: false, stagesOut: true }).state, 'STAGINGOUT');
    const empty = prepared({ executes: false });
    assert.deepEqual([empty.state, empty.run.result], ['DONE', { successful: true, message: '' }]);
    assert.equal(step(aJob(), events.abort).job.state, 'DONE');
  });

  it('watches no allocation before it is granted', () => {
    const asking = aJob({ state: 'PENDING', plan: { ...aPlan, allocates: true } });
    const queued = step(asking, events.submitted);
    assert.deepEqual(queued.effects, [{ do: 'awaitAllocation' }]);
    const granted = step(queued.job, events.allocated);
    assert.deepEqual([granted.effects[0]?.do, granted.job.run.bssId], ['watch', '8']);
  });

  it('takes a process on the login node for running at once', () => {
    const job = aJob({ state: 'PENDING', plan: { ...aPlan, onLoginNode: true } });
    const { state, run } = step(job, { ...events.submitted, pid: '12' }).job;
    assert.deepEqual([state, run.pid, run.mainMs], ['RUNNING', '12', 5_000]);
  });

  it('runs neither post-command nor stage-out after a failure, of the job or of the former', () => {
    const failed = step(withAttempt('POSTPROCESSING'), { ...events.finished, exitCode: 3 }).job;
    assert.deepEqual([failed.state, failed.run.exitCode], ['DONE', 3]);
    const ended = step(withAttempt('POSTCOMMAND'), { ...events.commandEnded, exitCode: 4 }).job;
    assert.equal(ended.state, 'DONE');
    assert.match(ended.run.result!.message, /post-command ended with exit code 4/);
  });

  it('submits nothing after a pre-command that failed, unless that is to be ignored', () => {
    const ended = { ...events.commandEnded, exitCode: 4 };
    const failed = step(withAttempt('PRECOMMAND'), ended).job;
    assert.equal(failed.state, 'DONE');
    assert.match(failed.run.result!.message, /pre-command ended with exit code 4/);
    const job = withAttempt('PRECOMMAND');
    const plan = { ...job.plan!, preCommand: { ignoreNonZeroExitCode: true } };
    assert.equal(step({ ...job, plan }, ended).job.state, 'PENDING');
  });

  it('says why the batch system does not pause a job, which goes on', () => {
    const { state, log } = step(withAttempt('PAUSING'), events.refused).job;
    assert.equal(state, 'RUNNING');
    assert.match(log.join('\n'), /could not be paused: not so/);
  });

  it('remembers a start that came before its time', () => {
    const early = step(aJob(), events.start).job;
    const plan = { ...aPlan, waitsForClient: true };
    assert.equal(step(early, { ...events.prepared, plan }).job.state, 'PENDING');
  });

  it('keeps the first reason, whatever follows from it', () => {
    const aborting = step(withAttempt('RUNNING'), events.abort).job;
    const lost = step(aborting, events.lost).job;
    assert.equal(lost.run.result?.message, 'Job aborted.');
    const failed = step(withAttempt('PENDING'), events.failed).job;
    assert.equal(step(failed, events.lost).job.run.result?.message, 'it broke');
  });

  it('learns the id of what was started too late, so that it can be stopped', () => {
    const aborting = step(withAttempt('PENDING'), events.abort).job;
    assert.equal(step(aborting, events.submitted).job.run.bssId, '7');
    const command = aJob({
      state: 'PRECOMMAND',
      plan: { ...aPlan, preCommand: { ignoreNonZeroExitCode: false } },
      run: { pre: { attemptId: 'j1-1-pre', startedMs: 2_000 } },
    });
    const stopping = step(command, events.abort).job;
    assert.equal(step(stopping, events.launched).job.run.pre?.pid, '11');
  });

  it('drops answers to a former run', () => {
    const done = step(withAttempt('STAGINGOUT'), events.stagedOut).job;
    const again = step(done, events.restart).job;
    // exit code, result, commands and times of the former run are gone
    assert.deepEqual(again.run, { number: 2, startedMs: 5_000 });
    for (const type of ['submitted', 'finished', 'failed', 'gone', 'launched'] as const)
      assert.equal(step(again, events[type]).job, again);
  });

  it('stages in once, and not again at a restart', () => {
    const staged = step(withAttempt('PREPROCESSING'), events.staged).job;
    const again = step(step({ ...staged, state: 'DONE' }, events.restart).job, {
      ...events.prepared,
      run: 2,
    }).job;
    assert.deepEqual([again.state, again.run.attemptId], ['PENDING', 'j1-2']);
  });

  it('judges by the exit code, unless that is to be ignored', () => {
    const end = (ignoreNonZeroExitCode: boolean) =>
      step(aJob({ state: 'POSTPROCESSING', plan: { ...aPlan, ignoreNonZeroExitCode } }), {
        ...events.finished,
        exitCode: 3,
      }).job.run;
    assert.equal(end(false).result?.successful, false);
    assert.equal(end(true).result?.successful, true);
    assert.equal(end(true).exitCode, 3);
  });

  it('bounds the log', () => {
    let job = aJob({ state: 'QUEUED', run: { attemptId: 'j1-1' } });
    for (let n = 0; n < 1_000; n++) job = step(job, n % 2 ? events.queued : events.running).job;
    assert.equal(job.log.length, 500);
  });
});
