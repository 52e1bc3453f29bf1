import assert from 'node:assert/strict';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { parseProgress } from '#xnjs/job/progress.js';
import { jobStatus } from '#xnjs/job/status.js';
import { startRig, until, type Rig } from './rig.js';

const waits = 'while [ ! -e go ]; do sleep 0.05; done';

describe('while and after a job runs, on a real agent', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: Rig;
  before(async () => {
    rig = await startRig(scope, { config: { progressIntervalMs: 40 } });
  });
  after(() => scope.close());

  const go = (id: string): void => writeFileSync(join(rig.directory, 'jobs', id, 'go'), '');
  const progressOf = async (id: string) => (await rig.engine.get(id)).run.progress;
  const shows = (id: string, progress: number) =>
    until(`progress ${progress}`, async () => (await progressOf(id)) === progress);

  it('its progress is what it writes, and nothing else that may lie there', async () => {
    const file = '.UNICORE_PROGRESS_INDICATION';
    const id = await rig.submit({
      Executable: [
        `echo 0.25 > ${file}; ${waits}; rm go`,
        // garbage, too much, too large a number, a pipe that nobody writes to
        `echo '$(touch /tmp/x) \`0.3\`' > ${file}; sleep 0.2; yes 0.3 | tr -d '\\n' | head -c 3000000 > ${file}; sleep 0.2`,
        `echo 7 > ${file}; sleep 0.2; rm ${file}; mkfifo ${file}; sleep 0.2; rm ${file}`,
        `echo 0.75 > ${file}; ${waits}`,
      ].join('\n'),
    });
    await shows(id, 0.25);
    const other = await rig.submit({ Executable: waits });
    await until('both run', async () => (await rig.engine.get(other)).state === 'RUNNING');
    const seen: (number | undefined)[] = [];
    rig.engine.onChange((job) => {
      if (job.id === id) seen.push(job.run.progress);
    });
    go(id);
    await shows(id, 0.75);
    assert.deepEqual(seen, [0.75], 'stored without a change');
    assert.equal(await progressOf(other), undefined);
    go(id);
    go(other);
    for (const each of [id, other]) assert.equal(jobStatus(await rig.finished(each)), 'SUCCESSFUL');
    assert.equal(await progressOf(id), 0.75);
  });

  it('its log has what expressions and the IDB came to, and what was deleted', async () => {
    const id = await rig.submit({
      Executable: 'cat in; echo out > out; mkdir d; touch d/x',
      Parameters: { N: '2' },
      Resources: { CPUsPerNode: '${N * 2}', Runtime: '10m' },
      Imports: [
        { Data: 'a', To: 'in', DeleteOnTermination: 'true' },
        { Data: 'b', To: 'kept' },
        { Data: 'c', To: '../beside', DeleteOnTermination: 'true', FailOnError: 'false' },
      ],
    });
    const job = await rig.finished(id);
    assert.equal(job.run.result?.message, '');
    const log = job.log.join('\n');
    assert.match(log, /Requested resources: CPUsPerNode=\$\{N \* 2\}, Runtime=10m/);
    assert.match(log, /Evaluated resource scripts: CPUsPerNode=4 \(\$\{N \* 2\}\)/);
    assert.match(log, /Default resources: Queue=vm\n/);
    assert.match(log, /Deleted files: in\n/);
    const has = (name: string): boolean => existsSync(join(rig.directory, 'jobs', id, name));
    assert.deepEqual(['in', 'kept', 'out', 'd/x'].map(has), [false, true, true, true]);
    await rig.engine.restart(id);
    await until('it ran again', async () => (await rig.engine.get(id)).run.number === 2);
    assert.match(
      (await rig.finished(id)).log.join('\n'),
      /Deleted files of the former run: UNICORE/,
    );
  });
});

describe('what a job says of its progress', () => {
  const id = '5b3f0c1e-8d52-4a94-9a50-0f0e3a1f2b3c';
  for (const [text, progress] of [
    ['0', 0],
    ['1', 1],
    ['.5', 0.5],
    ['0.123456', 0.1235],
    ['1.01', undefined],
    ['', undefined],
    ['0.1 0.2', undefined],
    ['1e-1', undefined],
    ['0.1.2', undefined],
  ] as const)
    it(`is ${progress ?? 'nothing'} for "${text}"`, () => {
      assert.equal(parseProgress(`${id} ${text}\n`).get(id), progress);
    });
});
