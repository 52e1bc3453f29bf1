import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { Scope } from '#kernel/scope.js';
import { consumedTime, jobStatus } from '#xnjs/job/status.js';
import { scratch, targetId, until } from './rig.js';
import { config, ScriptedTsi, start } from './scripted.js';

const pre = '.UNICORE_PRE_0/UNICORE_SCRIPT_EXIT_CODE';
const post = '.UNICORE_POST_0/UNICORE_SCRIPT_EXIT_CODE';
const both = { Executable: 'x', 'User precommand': 'before', 'User postcommand': 'after' };

describe('what a job does on the login node', { timeout: 30_000 }, () => {
  it('runs pre-command, job and post-command one after another, each by its own attempt', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    script.files.set(pre, undefined).set(post, undefined);
    const { engine, submit, reaches } = await start(scope, script);
    const id = await submit(both);
    await until('pre-command', () => script.launches.length === 1);
    await reaches(id, 'PRECOMMAND');
    assert.equal(script.submissions.length, 0);
    script.files.set(pre, '0\n');
    script.living.clear();
    await until('post-command', () => script.launches.length === 2);
    assert.equal(script.submissions.length, 1);
    assert.match(script.launches[0]!.script, /eval 'before'/);
    assert.match(script.launches[1]!.script, /UC_EXIT_CODE=0\n[^]*eval 'after'/);
    assert.doesNotMatch(script.submissions[0]!.script, /before|after/);
    script.files.set(post, '0\n');
    script.living.clear();
    await reaches(id, 'DONE');
    const job = await engine.get(id);
    assert.equal(jobStatus(job), 'SUCCESSFUL');
    const attempts = [...script.launches, ...script.submissions].map(({ attemptId }) => attemptId);
    assert.deepEqual(attempts, [`${id}-1-pre`, `${id}-1-post`, `${id}-1`]);
    const times = consumedTime(job, 0);
    assert.deepEqual([times['preCommand'], times['postCommand']], ['0', '0']);
    assert.match(job.log.join('\n'), /Launched pre-command with PID=1001 on localhost/);
  });

  it('submits nothing after a pre-command that failed, or was killed', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, submit, reaches } = await start(scope, script);
    const cases: [string | undefined, RegExp][] = [
      ['3\n', /pre-command ended with exit code 3/],
      [undefined, /pre-command was killed/],
    ];
    for (const [code, message] of cases) {
      script.files.set(pre, code);
      script.onLaunch = () => Promise.resolve('77');
      const id = await submit(both);
      await reaches(id, 'DONE');
      assert.match((await engine.get(id)).run.result!.message, message);
    }
    assert.equal(script.submissions.length, 0);
  });

  it('runs no post-command and stages nothing out after a job that failed', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    script.exitCode = '4\n';
    const { engine, submit, reaches } = await start(scope, script);
    const id = await submit({ Executable: 'x', 'User postcommand': 'after' });
    await reaches(id, 'DONE');
    const { run } = await engine.get(id);
    assert.deepEqual([run.exitCode, run.result?.successful, run.post], [4, false, undefined]);
    assert.equal(script.launches.length, 0);
  });

  it('ends a pre-command that runs when its job is aborted', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, submit, reaches } = await start(scope, script);
    const id = await submit(both);
    await until('it runs', async () => (await engine.get(id)).run.pre?.pid !== undefined);
    await engine.abort(id);
    await reaches(id, 'DONE');
    assert.deepEqual([script.killed, script.submissions.length], [['1001'], 0]);
    assert.equal((await engine.get(id)).run.result?.message, 'Job aborted.');
  });

  it('ends a post-command, too, when its job is destroyed', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, submit } = await start(scope, script);
    const id = await submit({ Executable: 'x', 'User postcommand': 'after' });
    await until('it runs', async () => (await engine.get(id)).run.post?.pid !== undefined);
    await engine.destroy(id);
    await until('record gone', async () => (await engine.list({ offset: 0, num: 1 })).total === 0);
    assert.deepEqual([script.killed, script.aborted], [['1001'], []]);
  });

  it('after a crash starts a half-launched command again by the same attempt', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    script.onLaunch = () => new Promise(() => undefined);
    const first = new Scope();
    const directory = scratch(scope);
    const one = await start(first, script, directory);
    const id = await one.submit(both);
    await until('launch is under way', () => script.launches.length === 1);
    void one.engine.close();
    script.onLaunch = () => Promise.resolve('55');
    script.files.set(pre, '0\n').set(post, '0\n');
    await using second = new Scope();
    const { reaches } = await start(second, script, directory);
    await reaches(id, 'DONE');
    const attempts = script.launches.map(({ attemptId }) => attemptId);
    assert.deepEqual(attempts, [`${id}-1-pre`, `${id}-1-pre`, `${id}-1-post`]);
  });

  it('finds a running command again after a crash, without starting it twice', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const first = new Scope();
    const directory = scratch(scope);
    const one = await start(first, script, directory);
    const id = await one.submit(both);
    await until('it runs', async () => (await one.engine.get(id)).run.pre?.pid !== undefined);
    await one.engine.close();
    await using second = new Scope();
    const { reaches } = await start(second, script, directory);
    script.files.set(pre, '0\n').set(post, '0\n');
    script.onLaunch = () => Promise.resolve('56');
    script.living.clear();
    await reaches(id, 'DONE');
    assert.equal(script.launches.filter(({ attemptId }) => attemptId.endsWith('pre')).length, 1);
  });

  it('runs login-node jobs beside the batch system, and finds their end in the process table', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, submit, reaches } = await start(scope, script);
    for (const wish of [
      { 'Job type': 'interactive', 'Login node': 'login*' },
      { Environment: { UC_PREFER_INTERACTIVE_EXECUTION: 'true' } },
    ]) {
      const id = await submit({ Executable: 'x', ...wish });
      await reaches(id, 'RUNNING');
      script.living.clear();
      await reaches(id, 'DONE');
      const { run } = await engine.get(id);
      assert.match(run.bssId!, /^INTERACTIVE_localhost_\d+$/);
      assert.equal(run.exitCode, 0);
      assert.equal(await engine.details(id), 'N/A');
    }
    const aborted = await submit({ Executable: 'x', 'Job type': 'ON_LOGIN_NODE' });
    await reaches(aborted, 'RUNNING');
    await engine.abort(aborted);
    await reaches(aborted, 'DONE');
    assert.deepEqual(script.killed, [(await engine.get(aborted)).run.pid]);
    assert.equal(script.submissions.length, 0);
  });

  it('fails a job whose TSI answers a launch with what is no pid', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    script.onLaunch = () => Promise.resolve('1; rm -rf /');
    const { engine, submit, reaches } = await start(scope, script);
    const id = await submit({ Executable: 'x', 'Job type': 'ON_LOGIN_NODE' });
    await reaches(id, 'DONE');
    assert.match((await engine.get(id)).run.result!.message, /without a pid/);
  });
});

describe('pausing a job', { timeout: 30_000 }, () => {
  async function running() {
    const scope = new Scope();
    const script = new ScriptedTsi();
    script.onSubmit = ({ attemptId }) => {
      script.listed.set(attemptId, { state: 'RUNNING' });
      return Promise.resolve(attemptId);
    };
    const rig = await start(scope, script);
    const id = await rig.submit();
    await rig.reaches(id, 'RUNNING');
    return { script, id, ...rig, [Symbol.asyncDispose]: () => scope.close() };
  }

  it('holds and resumes it, and keeps where it was', async () => {
    await using rig = await running();
    const { engine, script, id, reaches } = rig;
    await engine.pause(id);
    const paused = await engine.get(id);
    assert.deepEqual([paused.state, jobStatus(paused)], ['PAUSED', 'UNDEFINED']);
    await engine.resume(id);
    await reaches(id, 'RUNNING');
    assert.deepEqual([script.held, script.resumed], [[`${id}-1`], [`${id}-1`]]);
    const log = (await engine.get(id)).log.join('\n');
    assert.match(log, /: Paused\.[^]*: Resumed\./);
  });

  it('says that the batch system refuses, and lets the job be', async () => {
    await using rig = await running();
    const { engine, script, id } = rig;
    script.onHold = () => Promise.reject(new GridError('TSI_FAILED', 'qhold: not permitted'));
    await assert.rejects(engine.pause(id), { code: 'CONFLICT', message: /qhold: not permitted/ });
    assert.equal((await engine.get(id)).state, 'RUNNING');
    await assert.rejects(engine.resume(id), { code: 'JOB_ILLEGAL_EVENT' });
  });

  it('notices the end of a paused job, and aborts one', async () => {
    await using rig = await running();
    const { engine, script, id, reaches, submit } = rig;
    await engine.pause(id);
    script.listed.delete(`${id}-1`);
    await reaches(id, 'DONE');
    const other = await submit();
    await reaches(other, 'RUNNING');
    await engine.pause(other);
    await engine.abort(other);
    await reaches(other, 'DONE');
    assert.deepEqual(script.aborted, [`${other}-1`]);
  });

  it('pauses nothing on the login node', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, submit, reaches } = await start(scope, script);
    const id = await submit({ Executable: 'x', 'Job type': 'ON_LOGIN_NODE' });
    await reaches(id, 'RUNNING');
    await assert.rejects(engine.pause(id), { code: 'CONFLICT' });
    assert.equal((await engine.get(id)).state, 'RUNNING');
  });
});

describe('other paths of a job', { timeout: 30_000 }, () => {
  it('waits for the time that the user named, and can be aborted until then', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, submit, reaches } = await start(scope, script);
    const at = (ms: number) => new Date(ms).toISOString().slice(0, 19) + '+0000';
    const soon = await submit({ Executable: 'x', 'Not before': at(Date.now() + 1_500) });
    const late = await submit({ Executable: 'x', 'Not before': at(Date.now() + 1e9) });
    await reaches(soon, 'DELAYED');
    await reaches(late, 'DELAYED');
    assert.equal(script.submissions.length, 0);
    await reaches(soon, 'DONE');
    await engine.abort(late);
    assert.equal((await engine.get(late)).state, 'DONE');
    assert.equal(script.submissions.length, 1);
  });

  it('hands a raw job over with its file of directives', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, submit, reaches } = await start(scope, script);
    const id = await submit({ Executable: 'x', 'Job type': 'RAW', 'BSS file': 'my.sbatch' });
    await reaches(id, 'DONE');
    const [{ mode, jobFile } = {}] = script.submissions;
    assert.deepEqual([mode, jobFile], ['raw', `/jobs/${id}/my.sbatch`]);
    assert.equal((await engine.get(id)).jobType, 'BATCH');
  });

  it('makes an allocation, runs jobs in it, and gives it back', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    script.exitCode = undefined;
    script.onSubmit = () => Promise.resolve('');
    script.files.set('UNICORE_ALLOCATION_ID', undefined);
    const { engine, submit, reaches } = await start(scope, script);
    const id = await submit({ 'Job type': 'ALLOCATE' });
    await reaches(id, 'QUEUED');
    assert.match((await engine.get(id)).run.bssId!, /^INTERACTIVE_/);
    const inside = { ownerDn: 'CN=x', description: { Executable: 'srun x', 'Job type': 'BATCH' } };
    await assert.rejects(engine.submitInto(id, inside), { code: 'CONFLICT', message: /QUEUED/ });
    script.listed.set('4711', { state: 'RUNNING' });
    script.files.set('UNICORE_ALLOCATION_ID', '4711\n');
    await reaches(id, 'RUNNING');
    assert.equal((await engine.get(id)).run.bssId, '4711');
    const job = await engine.submitInto(id, inside);
    await until('it runs', () => script.launches.length === 1);
    assert.match(script.launches[0]!.script, /export SLURM_JOB_ID='4711'/);
    await assert.rejects(engine.submitInto(job.id, inside), { message: /is no allocation/ });
    await engine.abort(id);
    await reaches(id, 'DONE');
    assert.deepEqual(script.aborted, ['4711']);
  });

  it('fails an allocation that the batch system does not make', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    script.exitCode = '1\n';
    script.onSubmit = () => Promise.resolve('');
    script.files.set('UNICORE_ALLOCATION_ID', undefined);
    const { engine, submit, reaches } = await start(scope, script);
    const id = await submit({ 'Job type': 'ALLOCATE' });
    await reaches(id, 'DONE');
    assert.match((await engine.get(id)).run.result!.message, /not made: exit code 1/);
  });

  it('waits for the exit code of a job on a slow file system, and not for ever', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    script.exitCode = undefined;
    const patient = { ...config, fileSystemGraceMs: 5_000, statusMaxIntervalMs: 20 };
    const { submit, reaches } = await start(scope, script, undefined, { config: patient });
    const id = await submit();
    await reaches(id, 'POSTPROCESSING');
    script.exitCode = '0\n';
    await reaches(id, 'DONE');
  });

  it('shows the command that submits a job, without its secrets', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const { engine, submit, reaches } = await start(scope, script);
    const id = await submit({
      Executable: "curl -H 'Authorization: hunter2secret' $URL",
      Environment: { API_TOKEN: 'hunter2secret', DB_PASSWORD: "it's\nsecret", PLAIN: 'visible' },
      Resources: { Runtime: '30m' },
      Project: 'qcd',
    });
    await reaches(id, 'DONE');
    const log = (await engine.get(id)).log.join('\n');
    for (const shown of ['#TSI_TIME 1800', '#TSI_PROJECT qcd', "export PLAIN='visible'"])
      assert.ok(log.includes(shown), shown);
    for (const secret of ['hunter2secret', 'secret\n', "it's"])
      assert.ok(!log.includes(secret), log);
    assert.match(script.submissions[0]!.script, /hunter2secret/);
  });

  it('looks at once when the target says that a job has ended', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const lazy = { ...config, statusIntervalMs: 60_000, statusMaxIntervalMs: 60_000 };
    const exits = new Set<(id: string) => void>();
    // so late that no listing is due for a long time
    let laterMs = 0;
    const clock = { ...systemClock, now: () => Date.now() + laterMs };
    let listings = 0;
    script.onStatus = () => {
      listings += 1;
      return Promise.resolve(script.listed);
    };
    script.onSubmit = ({ attemptId }) => {
      script.listed.set(attemptId, { state: 'RUNNING' });
      return Promise.resolve(attemptId);
    };
    const rig = await start(scope, script, undefined, { config: lazy, clock });
    const { submit, reaches, targets } = rig;
    Object.assign(targets.find(targetId)!, {
      onExit: (listener: (id: string) => void) => {
        exits.add(listener);
        return () => exits.delete(listener);
      },
    });
    const id = await submit();
    await reaches(id, 'RUNNING');
    await until('somebody listens', () => exits.size === 1);
    laterMs = 1_000_000;
    const seen = listings;
    await until('the last early listing', () => listings > seen);
    script.listed.clear();
    for (const tell of exits) tell('whatever');
    await reaches(id, 'DONE');
  });
});
