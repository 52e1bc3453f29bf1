import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import type { IdbApplication } from '#imagerepo/contract.js';
import { Scope } from '#kernel/scope.js';
import { jobStatus } from '#xnjs/job/status.js';
import { until, type EngineRig, type RigOptions } from './rig.js';

/** What runs on the targets of the suite. */
export const suiteApplications: IdbApplication[] = [
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

/** What the suite needs of an engine and its TSI, which may be on another machine. */
export type SuiteRig = Pick<
  EngineRig,
  'engine' | 'submit' | 'finished' | 'exists' | 'read' | 'jobsDirectory' | 'targetId' | 'ownerDn'
>;

export type SuiteOptions = {
  /** How much slower it may be than on this machine. */
  readonly patience?: number;
  readonly jobsAtOnce?: number;
};

/** What jobs are, whatever TSI runs them: to be called inside a `describe`. */
export function endToEndSuite(
  startRig: (scope: Scope, options: RigOptions) => Promise<SuiteRig>,
  { patience = 1, jobsAtOnce = 200 }: SuiteOptions = {},
): void {
  const scope = new Scope();
  let rig: SuiteRig;
  const file = (id: string, name: string): string => `${rig.jobsDirectory}/${id}/${name}`;
  const output = (id: string, name = 'stdout'): Promise<string> => rig.read(file(id, name));
  const soon = (what: string, met: () => unknown, ms = 20_000): Promise<void> =>
    until(what, met, ms * patience);
  before(async () => {
    rig = await startRig(scope, { applications: suiteApplications });
  });
  after(() => scope.close());

  it('runs a command and tells its exit code, output and times', async () => {
    const id = await rig.submit({ Executable: 'echo hello; id -un', Name: 'first' });
    const job = await rig.finished(id);
    assert.equal(jobStatus(job), 'SUCCESSFUL');
    assert.deepEqual([job.run.exitCode, job.run.result?.message, job.name], [0, '', 'first']);
    assert.match(await output(id), /^hello\n/);
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
    assert.equal(await output(id), "hello  there a  b $(id) it's");
    assert.equal(await output(id, 'stderr'), 'prologue\nepilogue 0\n');
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
    assert.equal(await output(id), 'ONE TWO');
    assert.deepEqual((job.description['Imports'] as { Data: string }[])[0]!.Data, 'n/a');
  });

  it('waits for the client where it stages in, and goes on at start', async () => {
    const id = await rig.submit({ Executable: 'cat up.txt', haveClientStageIn: 'true' });
    await soon('READY', async () => (await rig.engine.get(id)).state === 'READY');
    const { Readable } = await import('node:stream');
    await rig.engine
      .files(await rig.engine.get(id))
      .write('up.txt', Readable.from([Buffer.from('up')]));
    await rig.engine.start(id);
    await rig.finished(id);
    assert.equal(await output(id), 'up');
  });

  it('makes an empty job a directory, and nothing else', async () => {
    const job = await rig.finished(await rig.submit({}));
    assert.deepEqual(
      [jobStatus(job), job.run.exitCode, job.run.bssId],
      ['SUCCESSFUL', undefined, undefined],
    );
    assert.ok(await rig.exists(job.directory!));
  });

  it('aborts a running job, with all its processes', async () => {
    const id = await rig.submit({ Executable: 'echo $$ > pid; sleep 100 & sleep 100' });
    await soon('it runs', () => rig.exists(file(id, 'pid')));
    await rig.engine.abort(id);
    const job = await rig.finished(id);
    assert.deepEqual([jobStatus(job), job.run.result?.message], ['FAILED', 'Job aborted.']);
    const pid = (await output(id, 'pid')).trim();
    await soon('its process is gone', async () => !(await rig.exists(`/proc/${pid}`))); // TSIs signal, then answer
    await rig.engine.abort(id); // no change
    assert.equal((await rig.engine.get(id)).run.doneMs, job.run.doneMs);
  });

  it('finds a killed job soon, and says so', async () => {
    const id = await rig.submit({
      Executable: 'kill -9 -- -$(ps -o sid= $$ | tr -d " "); kill -9 0',
    });
    const job = await rig.finished(id, 5_000 * patience);
    assert.equal(jobStatus(job), 'FAILED');
    assert.match(job.run.result!.message, /no exit code/);
  });

  it('restarts a job in the same directory, with a new attempt', async () => {
    const id = await rig.submit({ Executable: 'echo x >> runs; [ $(wc -l < runs) = 2 ]' });
    assert.equal(jobStatus(await rig.finished(id)), 'FAILED');
    await rig.engine.restart(id);
    await soon('second run', async () => (await rig.engine.get(id)).run.number === 2);
    const job = await rig.finished(id);
    assert.deepEqual([jobStatus(job), await output(id, 'runs')], ['SUCCESSFUL', 'x\nx\n']);
  });

  it('removes directory and record of a destroyed job, running or not', async () => {
    const id = await rig.submit({ Executable: 'mkdir d; touch d/f; chmod 500 d; sleep 100' });
    await soon('it runs', () => rig.exists(file(id, 'd/f')));
    await rig.engine.destroy(id);
    await assert.rejects(rig.engine.get(id), { code: 'JOB_UNKNOWN' });
    await soon('directory gone', async () => !(await rig.exists(file(id, ''))));
  });

  const wrong: [string, Record<string, unknown>, RegExp][] = [
    ['an unknown application', { ApplicationName: 'Nope' }, /Nope.*Greeter 1\.0/],
    [
      'a resource out of range',
      { Executable: 'x', Resources: { CPUs: 9 } },
      /CPUs.*9.*outside 1-\d/,
    ],
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
      rig.engine.list({ ownerDn: rig.ownerDn, targetId: rig.targetId, tags, ...page });
    assert.deepEqual(await list(['red']), { ids: [second, first], total: 2 });
    assert.deepEqual(await list(['green', 'red']), { ids: [first], total: 1 });
    assert.deepEqual(await list(['red'], { offset: 1, num: 10 }), { ids: [first], total: 2 });
    assert.deepEqual(await list([`x') OR 1=1 --`]), { ids: [], total: 0 });
    assert.equal((await rig.engine.list({ ownerDn: 'CN=Other', offset: 0, num: 1 })).total, 0);
    await rig.engine.update(first, { tags: ['blue'] });
    assert.deepEqual(await list(['blue']), { ids: [first], total: 1 });
    assert.deepEqual(await list(['green']), { ids: [], total: 0 });
  });

  it(`runs ${jobsAtOnce} jobs at once, each of them once`, async () => {
    const counts = `${rig.jobsDirectory}/counts`;
    const done = new Set<string>();
    const ignore = rig.engine.onChange(({ id, state }) => state === 'DONE' && done.add(id));
    const ids = await Promise.all(
      Array.from({ length: jobsAtOnce }, () =>
        rig.submit({ Executable: `basename "$PWD" >> ${counts}` }),
      ),
    );
    await soon('all are over', () => ids.every((id) => done.has(id)), 60_000);
    ignore();
    const lines = (await rig.read(counts)).trim().split('\n');
    assert.deepEqual(lines.sort(), [...ids].sort());
  });
}
