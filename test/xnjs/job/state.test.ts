import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { JobEvent } from '#xnjs/job/events.js';
import { step } from '#xnjs/job/state.js';
import type { JobState } from '#xnjs/job/transitions.js';
import { aJob, aPlan } from './samples.js';

const base = { atMs: 5_000, run: 1 } as const;
const facts = { name: 'n', jobType: 'BATCH', directory: '/j/j1/' } as const;
const events: Record<JobEvent['type'], JobEvent> = {
  prepared: { type: 'prepared', ...base, facts, plan: { ...aPlan, stagesIn: true } },
  staged: { type: 'staged', ...base },
  submitted: { type: 'submitted', ...base, bssId: '7' },
  queued: { type: 'queued', ...base, queue: 'q' },
  running: { type: 'running', ...base, queue: 'q' },
  gone: { type: 'gone', ...base },
  finished: { type: 'finished', ...base, exitCode: 0 },
  failed: { type: 'failed', ...base, reason: 'it broke' },
  stopped: { type: 'stopped', ...base },
  lost: { type: 'lost', atMs: 5_000, reason: 'target system t1 lost: gone' },
  removed: { type: 'removed', ...base },
  start: { type: 'start', atMs: 5_000 },
  restart: { type: 'restart', atMs: 5_000 },
  abort: { type: 'abort', atMs: 5_000 },
  destroy: { type: 'destroy', atMs: 5_000 },
};

const shortcuts: Record<string, JobState> = {
  created: 'CREATED',
  prep: 'PREPROCESSING',
  ready: 'READY',
  pending: 'PENDING',
  queued: 'QUEUED',
  running: 'RUNNING',
  post: 'POSTPROCESSING',
  abort: 'ABORTING',
  done: 'DONE',
  destr: 'DESTROYING',
  gone: 'DESTROYED',
};
/**
 * Every cell, for a job that stages in, waits for its client and has an attempt; `-` is illegal.
 */
const table = `
           prepared staged submitted queued  running gone   finished failed stopped lost  removed start   restart abort  destroy
created    prep     -      -         -       -       -      -        done   -       done  -       created created abort  destr
prep       -        ready  -         -       -       -      -        done   -       done  -       prep    prep    abort  destr
ready      -        -      -         -       -       -      -        -      -       done  -       pending ready   abort  destr
pending    -        -      queued    -       -       -      -        done   -       done  -       pending pending abort  destr
queued     -        -      -         queued  running post   -        -      -       done  -       queued  queued  abort  destr
running    -        -      -         queued  running post   -        -      -       done  -       running running abort  destr
post       -        -      -         queued  running post   done     done   -       done  -       post    post    abort  destr
abort      abort    abort  abort     abort   abort   abort  abort    abort  done    done  -       abort   abort   abort  destr
done       done     done   done      done    done    done   done     done   done    done  -       done    created done   destr
destr      destr    destr  destr     destr   destr   destr  destr    destr  destr   gone  gone    destr   destr   destr  destr
gone       -        -      -         -       -       -      -        -      -       -     -       -       -       -      -
`;
const [head = '', ...lines] = table.trim().split('\n');
const columns = head.trim().split(/\s+/) as JobEvent['type'][];
const withAttempt = (state: JobState) =>
  aJob({
    state,
    plan: { ...aPlan, stagesIn: true, waitsForClient: true },
    run: { attemptId: 'j1-1' },
  });

describe('the life of a job', () => {
  for (const line of lines) {
    const [name = '', ...cells] = line.trim().split(/\s+/);
    const state = shortcuts[name]!;
    for (const [at, type] of columns.entries()) {
      const cell = cells[at]!;
      it(`${state} + ${type} -> ${shortcuts[cell] ?? 'illegal'}`, () => {
        const act = () => step(withAttempt(state), events[type]).job.state;
        if (cell === '-') assert.throws(act, { code: 'JOB_ILLEGAL_EVENT' });
        else assert.equal(act(), shortcuts[cell]);
      });
    }
  }

  const effects: [JobState, JobEvent, ...string[]][] = [
    ['CREATED', events.prepared, 'stageIn'],
    ['PREPROCESSING', events.staged],
    ['READY', events.start, 'submit'],
    ['PENDING', events.submitted, 'watch'],
    ['QUEUED', events.running, 'watch'],
    ['RUNNING', events.gone, 'collectExitCode'],
    ['POSTPROCESSING', events.finished],
    ['RUNNING', events.abort, 'stop'],
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
    const prepared = (plan: Partial<typeof aPlan>) =>
      step(aJob(), { ...events.prepared, plan: { ...aPlan, ...plan } } as JobEvent).job;
    assert.equal(prepared({}).state, 'PENDING');
    assert.equal(prepared({}).run.attemptId, 'j1-1');
    assert.equal(prepared({ waitsForClient: true }).state, 'READY');
    const empty = prepared({ executes: false });
    assert.deepEqual([empty.state, empty.run.result], ['DONE', { successful: true, message: '' }]);
    assert.equal(step(aJob(), events.abort).job.state, 'DONE');
  });

  it('remembers a start that came before its time', () => {
    const early = step(aJob(), events.start).job;
    const plan = { ...aPlan, waitsForClient: true };
    assert.equal(step(early, { ...events.prepared, plan } as JobEvent).job.state, 'PENDING');
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
  });

  it('drops answers to a former run', () => {
    const done = step(withAttempt('POSTPROCESSING'), events.finished).job;
    const again = step(done, events.restart).job;
    assert.deepEqual(again.run, { number: 2, startedMs: 5_000 });
    for (const type of ['submitted', 'finished', 'failed', 'gone'] as const)
      assert.equal(step(again, events[type]).job, again);
  });

  it('stages in once, and not again at a restart', () => {
    const staged = step(withAttempt('PREPROCESSING'), events.staged).job;
    const again = step(step({ ...staged, state: 'DONE' }, events.restart).job, {
      ...events.prepared,
      run: 2,
    } as JobEvent).job;
    assert.deepEqual([again.state, again.run.attemptId], ['PENDING', 'j1-2']);
  });

  it('judges by the exit code, unless that is to be ignored', () => {
    const end = (ignoreNonZeroExitCode: boolean) =>
      step(aJob({ state: 'POSTPROCESSING', plan: { ...aPlan, ignoreNonZeroExitCode } }), {
        ...events.finished,
        exitCode: 3,
      } as JobEvent).job.run;
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
