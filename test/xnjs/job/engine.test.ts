import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { JobConfig } from '#xnjs/job/config.js';
import { JobEngine } from '#xnjs/job/engine.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import type { Staging } from '#xnjs/staging/staging.js';
import type { BssEntry, Submission, Tsi } from '#xnjs/tsi/tsi.js';
import { LocalTargets, openStore, ownerDn, scratch, targetId, until } from './rig.js';

/** A TSI that does what the test says, for moments that no real one can be held in. */
class ScriptedTsi {
  readonly submissions: Submission[] = [];
  readonly scripts: string[] = [];
  readonly aborted: string[] = [];
  exitCode: string | undefined = '0\n';
  listed = new Map<string, BssEntry>();
  onSubmit: (submission: Submission) => Promise<string> = (submission) =>
    Promise.resolve(`bss-${submission.attemptId}`);
  onStatus: () => Promise<ReadonlyMap<string, BssEntry>> = () => Promise.resolve(this.listed);

  readonly tsi: Tsi = {
    ping: () => Promise.resolve('11'),
    execute: (_, script) => Promise.resolve(String(this.scripts.push(script))),
    list: (_, path) =>
      Promise.resolve(
        this.exitCode === undefined
          ? []
          : [
              {
                path,
                isDirectory: false,
                sizeBytes: this.exitCode.length,
                modifiedMs: 0,
                permissions: 'rw-------',
                owner: 'x',
                group: 'x',
                ownedByCaller: true,
              },
            ],
      ),
    read: () => Readable.from([Buffer.from(this.exitCode ?? '')]),
    write: () => Promise.resolve(0),
    space: () => Promise.reject(new Error('not scripted')),
    aclSupport: () => Promise.resolve(false),
    getAcl: () => Promise.resolve([]),
    setAcl: () => Promise.resolve(),
    submit: (_, submission) => {
      this.submissions.push(submission);
      return this.onSubmit(submission);
    },
    status: () => this.onStatus(),
    abort: (_, id) => {
      this.aborted.push(id);
      this.listed.delete(id);
      return Promise.resolve();
    },
    details: () => Promise.resolve('{}'),
  };
}

const config = JobConfig.parse({
  statusIntervalMs: 20,
  retryFirstMs: 10,
  retryMaxMs: 50,
  refusedDelayMs: 5,
});

/** These jobs bring nothing along. */
const noStaging: Staging = { stage: () => Promise.resolve({ log: [] }) };

async function start(scope: Scope, script: ScriptedTsi, directory = scratch(scope)) {
  const targets = new LocalTargets(() => script.tsi, '/jobs');
  const store = createJobStore(await openStore(scope, directory));
  const engine = scope.use(
    new JobEngine({
      store,
      targets,
      staging: noStaging,
      clock: systemClock,
      log: silentLog,
      config,
    }),
  );
  await engine.attach();
  const submit = async () =>
    (await engine.submit({ ownerDn, targetId, description: { Executable: 'x' } })).id;
  const reaches = (id: string, state: string) =>
    until(`${id} ${state}`, async () => (await engine.get(id)).state === state);
  return { engine, directory, submit, reaches };
}

function held(): { promise: Promise<void>; release: () => void } {
  let release!: () => void;
  const promise = new Promise<void>((resolve) => (release = resolve));
  return { promise, release };
}

describe('the job engine on a scripted TSI', { timeout: 30_000 }, () => {
  it('does not believe a listing that was asked for before the job was submitted', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, submit, reaches } = await start(scope, script);
    script.onSubmit = ({ attemptId }) => {
      script.listed.set(`bss-${attemptId}`, { state: 'RUNNING' });
      return Promise.resolve(`bss-${attemptId}`);
    };
    const first = await submit();
    await reaches(first, 'RUNNING');
    const gate = held();
    let asked = 0;
    script.onStatus = async () => {
      asked += 1;
      const before = new Map(script.listed);
      if (asked === 1) await gate.promise;
      return before;
    };
    await until('a listing is under way', () => asked === 1);
    const second = await submit();
    await reaches(second, 'QUEUED');
    gate.release();
    await reaches(second, 'RUNNING');
    assert.ok(!(await engine.get(second)).log.some((line) => line.includes('POSTPROCESSING')));
  });

  it('believes the next listing when one has missed a job', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    script.exitCode = undefined;
    const { submit, reaches } = await start(scope, script);
    const running: [string, BssEntry][] = [];
    const answers = [[], running, running, running];
    script.onSubmit = ({ attemptId }) => {
      running.push([`bss-${attemptId}`, { state: 'RUNNING' }]);
      return Promise.resolve(`bss-${attemptId}`);
    };
    script.onStatus = () => Promise.resolve(new Map(answers.shift() ?? []));
    const id = await submit();
    await reaches(id, 'RUNNING');
    await reaches(id, 'DONE');
    assert.equal(answers.length, 0);
  });

  it('stops what an aborted job has started meanwhile', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, submit, reaches } = await start(scope, script);
    const gate = held();
    script.onSubmit = async () => {
      await gate.promise;
      return 'late';
    };
    const id = await submit();
    await until('submission is under way', () => script.submissions.length === 1);
    await engine.abort(id);
    assert.equal((await engine.get(id)).state, 'ABORTING');
    gate.release();
    await reaches(id, 'DONE');
    assert.deepEqual(script.aborted, ['late']);
  });

  it('after a crash sends a half-submitted job again by the same attempt', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    script.onSubmit = () => new Promise(() => undefined);
    const { directory } = await crashed(scope, script);
    script.onSubmit = () => Promise.resolve('once');
    await using second = new Scope();
    const { engine, reaches } = await start(second, script, directory);
    const [id = ''] = (await engine.list({ offset: 0, num: 1 })).ids;
    await reaches(id, 'DONE');
    assert.deepEqual(
      script.submissions.map(({ attemptId }) => attemptId),
      [`${id}-1`, `${id}-1`],
    );
  });

  it('aborts a half-submitted job after a crash without letting it run', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    script.onSubmit = () => new Promise(() => undefined);
    const { directory } = await crashed(scope, script);
    let answers = false;
    script.onSubmit = () =>
      answers
        ? Promise.resolve('found')
        : Promise.reject(new GridError('TSI_UNAVAILABLE', 'not yet'));
    await using second = new Scope();
    const { engine, reaches } = await start(second, script, directory);
    const [id = ''] = (await engine.list({ offset: 0, num: 1 })).ids;
    await engine.abort(id);
    assert.equal((await engine.get(id)).state, 'ABORTING');
    answers = true;
    await reaches(id, 'DONE');
    assert.deepEqual(script.aborted, ['found']);
    assert.ok(script.scripts.some((text) => text.includes('.UNICORE_ABORTED')));
  });

  it('tries a few times what the TSI refuses, then fails the job with its text', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, submit, reaches } = await start(scope, script);
    script.onSubmit = () =>
      Promise.reject(new GridError('TSI_FAILED', 'sbatch: no such partition'));
    const id = await submit();
    await reaches(id, 'DONE');
    assert.equal(script.submissions.length, 1 + config.refusedRetries);
    assert.equal((await engine.get(id)).run.result?.message, 'sbatch: no such partition');
  });

  it('never runs more calls at once than configured', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, submit } = await start(scope, script);
    let active = 0;
    let most = 0;
    script.onSubmit = async ({ attemptId }) => {
      most = Math.max(most, ++active);
      await systemClock.sleep(5);
      active -= 1;
      return attemptId;
    };
    const ids = await Promise.all(Array.from({ length: 40 }, submit));
    for (const id of ids) await until(id, async () => (await engine.get(id)).state === 'DONE');
    assert.equal(most, config.callsPerTarget);
  });

  it('refuses what it does not know', async () => {
    await using scope = new Scope();
    const { engine } = await start(scope, new ScriptedTsi());
    await assert.rejects(engine.submit({ ownerDn, targetId: 'unknown', description: {} }), {
      code: 'NOT_FOUND',
    });
    await assert.rejects(engine.get('nope'), { code: 'JOB_UNKNOWN' });
    for (const act of ['start', 'abort', 'restart', 'destroy'] as const)
      await assert.rejects(engine[act]('nope'), { code: 'JOB_UNKNOWN' });
  });
});

/** An engine that went away while a submission was under way. */
async function crashed(scope: Scope, script: ScriptedTsi): Promise<{ directory: string }> {
  const first = new Scope();
  const directory = scratch(scope);
  const { engine, submit } = await start(first, script, directory);
  await submit();
  await until('submission is under way', () => script.submissions.length === 1);
  void engine.close(); // it waits for the submission, which never answers
  return { directory };
}
