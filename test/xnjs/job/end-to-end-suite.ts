import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, it } from 'node:test';
import type { IdbApplication } from '#imagerepo/contract.js';
import { Scope } from '#kernel/scope.js';
import { jobStatus } from '#xnjs/job/status.js';
import { ownerDn, targetId, until, type EngineRig, type RigOptions } from './rig.js';

const applications: IdbApplication[] = [
  {
    Name: 'Greeter',
    Version: '1.0',
    Executable: '/bin/echo -n',
    Arguments: ['$GREETING', '--loud=$LOUD?', '${USER_NAME}'],
    Environment: { GREETING: 'hello  there' },
    Prologue: 'echo prologue >&2',
    Epilogue: 'echo "epilogue $UC_EXIT_CODE" >&2',
  },
];

/** What jobs are, whatever TSI runs them: to be called inside a `describe`. */
export function endToEndSuite(
  startRig: (scope: Scope, options: RigOptions) => Promise<EngineRig>,
): void {
  const scope = new Scope();
  let rig: EngineRig;
  before(async () => {
    rig = await startRig(scope, { applications });
  });
  after(() => scope.close());

  it('runs a command and tells its exit code, output and times', async () => {
    const id = await rig.submit({ Executable: 'echo hello; id -un', Name: 'first' });
    const job = await rig.finished(id);
    assert.equal(jobStatus(job), 'SUCCESSFUL');
    assert.deepEqual([job.run.exitCode, job.run.result?.message, job.name], [0, '', 'first']);
    assert.match(rig.output(id), /^hello\n/);
    assert.match(job.log.at(-2)!, /^\w{3} \w{3} \d\d \d\d:\d\d:\d\d UTC \d{4}: Status set to DONE/);
    assert.ok(job.run.doneMs! >= job.run.submittedMs!);
  });

  it('runs an application of the IDB with its arguments, prologue and epilogue', async () => {
    const id = await rig.submit({
      ApplicationName: 'Greeter',
      Parameters: { USER_NAME: 'a  b' },
      Arguments: ['$(id)', "it's"],
    });
    await rig.finished(id);
    assert.equal(rig.output(id), "hello  there a  b $(id) it's");
    assert.equal(rig.output(id, 'stderr'), 'prologue\nepilogue 0\n');
  });

  it('reports a non-zero exit code as a failure, unless it is to be ignored', async () => {
    const failed = await rig.finished(await rig.submit({ Executable: 'exit 3' }));
    assert.deepEqual([jobStatus(failed), failed.run.exitCode], ['FAILED', 3]);
    const ignored = await rig.finished(
      await rig.submit({ Executable: 'exit 3', IgnoreNonZeroExitCode: 'true' }),
    );
    assert.deepEqual([jobStatus(ignored), ignored.run.exitCode], ['SUCCESSFUL', 3]);
  });

  it('stages inline data in, with permissions, and reads standard input', async () => {
    const id = await rig.submit({
      Executable: 'in/run.sh',
      Stdin: 'data.txt',
      Imports: [
        {
          From: 'inline://dummy',
          To: 'in/run.sh',
          Data: ['#!/bin/sh', 'tr a-z A-Z'],
          Permissions: 'rwx',
        },
        { To: 'data.txt', Data: 'one ' },
        { To: 'data.txt', Data: 'two', Mode: 'append' },
        { To: 'data.txt', Data: 'three', Mode: 'nooverwrite' },
      ],
    });
    const job = await rig.finished(id);
    assert.equal(job.run.result?.message, '');
    assert.equal(rig.output(id), 'ONE TWO');
    assert.deepEqual((job.description['Imports'] as { Data: string }[])[0]!.Data, 'n/a');
  });

  it('waits for the client where it stages in, and goes on at start', async () => {
    const id = await rig.submit({ Executable: 'cat up.txt', haveClientStageIn: 'true' });
    await until('READY', async () => (await rig.engine.get(id)).state === 'READY');
    const { Readable } = await import('node:stream');
    await rig.engine
      .files(await rig.engine.get(id))
      .write('up.txt', Readable.from([Buffer.from('up')]));
    await rig.engine.start(id);
    await rig.finished(id);
    assert.equal(rig.output(id), 'up');
  });

  it('makes an empty job a directory, and nothing else', async () => {
    const job = await rig.finished(await rig.submit({}));
    assert.deepEqual(
      [jobStatus(job), job.run.exitCode, job.run.bssId],
      ['SUCCESSFUL', undefined, undefined],
    );
    assert.ok(existsSync(job.directory!));
  });

  it('aborts a running job, with all its processes', async () => {
    const id = await rig.submit({ Executable: 'echo $$ > pid; sleep 100 & sleep 100' });
    await until('it runs', () => existsSync(join(rig.directory, 'jobs', id, 'pid')));
    await rig.engine.abort(id);
    const job = await rig.finished(id);
    assert.deepEqual([jobStatus(job), job.run.result?.message], ['FAILED', 'Job aborted.']);
    const pid = rig.output(id, 'pid').trim();
    await until('its process is gone', () => !existsSync(`/proc/${pid}`)); // TSIs signal, then answer
    await rig.engine.abort(id); // no change
    assert.equal((await rig.engine.get(id)).run.doneMs, job.run.doneMs);
  });

  it('finds a killed job soon, and says so', async () => {
    const id = await rig.submit({
      Executable: 'kill -9 -- -$(ps -o sid= $$ | tr -d " "); kill -9 0',
    });
    const job = await rig.finished(id, 5_000);
    assert.equal(jobStatus(job), 'FAILED');
    assert.match(job.run.result!.message, /no exit code/);
  });

  it('restarts a job in the same directory, with a new attempt', async () => {
    const id = await rig.submit({ Executable: 'echo x >> runs; [ $(wc -l < runs) = 2 ]' });
    assert.equal(jobStatus(await rig.finished(id)), 'FAILED');
    await rig.engine.restart(id);
    await until('second run', async () => (await rig.engine.get(id)).run.number === 2);
    const job = await rig.finished(id);
    assert.deepEqual([jobStatus(job), rig.output(id, 'runs')], ['SUCCESSFUL', 'x\nx\n']);
  });

  it('removes directory and record of a destroyed job, running or not', async () => {
    const id = await rig.submit({ Executable: 'mkdir d; touch d/f; chmod 500 d; sleep 100' });
    await until('it runs', () => existsSync(join(rig.directory, 'jobs', id, 'd/f')));
    await rig.engine.destroy(id);
    await assert.rejects(rig.engine.get(id), { code: 'JOB_UNKNOWN' });
    await until('directory gone', () => !existsSync(join(rig.directory, 'jobs', id)));
  });

  const wrong: [string, Record<string, unknown>, RegExp][] = [
    ['an unknown application', { ApplicationName: 'Nope' }, /Nope.*Greeter 1\.0/],
    ['a resource out of range', { Executable: 'x', Resources: { CPUs: 9 } }, /CPUs.*9.*1-4/],
    [
      'a resource that is not offered',
      { Executable: 'x', Resources: { GPUsPerNode: 1 } },
      /GPUsPerNode/,
    ],
    [
      'an import by a scheme that is not offered',
      { Imports: [{ From: 'gsiftp://h/x', To: 'x' }] },
      /Imports\.0.*gsiftp/,
    ],
    ['wrong types', { Executable: 'x', Arguments: [1] }, /Arguments\.0/],
    ['a job type that there is not', { 'Job type': 'LATER' }, /Job type.*LATER/],
    ['a raw job without directives', { 'Job type': 'raw' }, /BSS file: must name/],
    [
      'text that would break the protocol',
      { Name: 'x', Executable: 'x', Project: 'a\nb' },
      /Project/,
    ],
  ];
  for (const [what, description, message] of wrong)
    it(`fails a job with ${what}, naming it`, async () => {
      const job = await rig.finished(await rig.submit(description));
      assert.equal(jobStatus(job), 'FAILED');
      assert.match(job.run.result!.message, message);
    });

  it('lists by owner, target and tags, newest first', async () => {
    const first = await rig.submit({ tags: ['red', 'green'] });
    const second = await rig.submit({ Tags: ['red'] });
    const list = (tags: string[], page = { offset: 0, num: 10 }) =>
      rig.engine.list({ ownerDn, targetId, tags, ...page });
    assert.deepEqual(await list(['red']), { ids: [second, first], total: 2 });
    assert.deepEqual(await list(['green', 'red']), { ids: [first], total: 1 });
    assert.deepEqual(await list(['red'], { offset: 1, num: 10 }), { ids: [first], total: 2 });
    assert.deepEqual(await list([`x') OR 1=1 --`]), { ids: [], total: 0 });
    assert.equal((await rig.engine.list({ ownerDn: 'CN=Other', offset: 0, num: 1 })).total, 0);
    await rig.engine.update(first, { tags: ['blue'] });
    assert.deepEqual(await list(['blue']), { ids: [first], total: 1 });
    assert.deepEqual(await list(['green']), { ids: [], total: 0 });
  });

  it('runs 200 jobs at once, each of them once', async () => {
    const counts = join(rig.directory, 'jobs', 'counts');
    const done = new Set<string>();
    const ignore = rig.engine.onChange(({ id, state }) => state === 'DONE' && done.add(id));
    const ids = await Promise.all(
      Array.from({ length: 200 }, () => rig.submit({ Executable: `basename "$PWD" >> ${counts}` })),
    );
    await until('all are over', () => ids.every((id) => done.has(id)), 60_000);
    ignore();
    const lines = readFileSync(counts, 'utf8').trim().split('\n');
    assert.deepEqual(lines.sort(), [...ids].sort());
  });
}
