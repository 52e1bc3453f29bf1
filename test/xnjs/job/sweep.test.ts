import assert from 'node:assert/strict';
import { existsSync, lstatSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { jobStatus } from '#xnjs/job/status.js';
import type { JobStore } from '#xnjs/job/store.js';
import { childId, findSweep } from '#xnjs/job/sweep.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import { openStore, ownerDn, scratch, startRig, targetId, until, type Rig } from './rig.js';
import { aJob, aPlan } from './samples.js';
import { config, ScriptedTsi, start } from './scripted.js';

const limit = 200;
const valuesOf = (Parameters: object) => findSweep({ Parameters }, limit)?.values;

describe('what a sweep is', () => {
  const ranges: [object, string[]][] = [
    [{ Values: ['a', 2, true] }, ['a', '2', 'true']],
    [{ From: '1', To: '4' }, ['1', '2', '3', '4']],
    [{ From: 1, To: 9, Step: 4 }, ['1', '5', '9']],
    [{ From: '0.1', To: '0.3', Step: '0.1' }, ['0.1', '0.2', '0.3']],
    [{ From: '3', To: '1', Step: '-1' }, ['3', '2', '1']],
    [{ From: '5', To: '5' }, ['5']],
  ];
  for (const [spec, values] of ranges)
    it(`${JSON.stringify(spec)} has the values ${values.join(' ')}`, () => {
      assert.deepEqual(valuesOf({ X: spec }), values);
    });

  const refused: [object, RegExp][] = [
    [{ X: { Values: [] } }, /Parameters\.X: a sweep needs at least one value/],
    [{ X: { Values: [{}] } }, /must be strings/],
    [{ X: { From: '1' } }, /must be \{"Values"/],
    [{ X: { From: '1', To: '9', Step: '0' } }, /Step must lead/],
    [{ X: { From: '1', To: '9', Step: '-1' } }, /Step must lead/],
    [{ X: { From: 'a', To: 'c' } }, /must be numbers/],
    [{ X: { From: '1', To: '999999999' } }, /at most 200 values, not 999999999/],
    [{ X: { Values: Array.from({ length: 201 }, String) } }, /at most 200 values, not 201/],
    [
      { X: { Values: ['1'] }, Y: { Values: ['1'] } },
      /one thing only.*Parameters\.X.*Parameters\.Y/,
    ],
  ];
  for (const [parameters, message] of refused)
    it(`refuses ${JSON.stringify(parameters).slice(0, 60)}`, () => {
      assert.throws(() => valuesOf(parameters), { code: 'JOB_INVALID', message });
    });

  it('gives each child its value, and leaves to the parent what is for all', () => {
    const sweep = findSweep(
      {
        Executable: 'x',
        Parameters: { N: { Values: ['1'] }, M: 'm' },
        Imports: [{ To: 'f', Data: 'd' }],
        Exports: [{ From: 'o', To: 'https://h/o' }],
        'Not before': '12:00',
        haveClientStageIn: true,
        Notification: 'https://h/',
        tags: ['t'],
      },
      limit,
    )!;
    assert.deepEqual(sweep.child('1'), {
      Executable: 'x',
      Parameters: { N: '1', M: 'm' },
      Exports: [{ From: 'o', To: 'https://h/o' }],
    });
    assert.equal('Exports' in sweep.parent, false);
    assert.deepEqual(sweep.parent['Parameters'], { M: 'm' });
  });

  it('names children the same each time, and others in the next run', () => {
    const id = childId('p', 1, 0);
    assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    assert.equal(childId('p', 1, 0), id);
    assert.equal(new Set([id, childId('p', 1, 1), childId('p', 2, 0), childId('q', 1, 0)]).size, 4);
  });
});

describe('sweeps on a real agent', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: Rig;
  before(async () => {
    rig = await startRig(scope);
  });
  after(() => scope.close());

  const childrenIn = (id: string): string[] => {
    const directory = join(rig.directory, 'jobs', id);
    const names = existsSync(directory) ? readdirSync(directory) : [];
    return names.filter((name) => /^[0-9a-f-]{36}$/.test(name));
  };

  it('runs a child for each value, with what the parent has staged in', async () => {
    const id = await rig.submit({
      Executable: 'cat common/in.txt; echo "$N"; [ "$N" != 2 ]',
      Parameters: { N: { From: '1', To: '3' } },
      Imports: [{ To: 'common/in.txt', Data: 'shared ' }],
    });
    const job = await rig.finished(id);
    assert.deepEqual([jobStatus(job), job.run.exitCode], ['SUCCESSFUL', 0]);
    const children = childrenIn(id);
    const outputs = children.map((child) => rig.output(id, `${child}/stdout`)).sort();
    assert.deepEqual(outputs, ['shared 1\n', 'shared 2\n', 'shared 3\n']);
    const link = join(rig.directory, 'jobs', id, children[0]!, 'common');
    assert.ok(lstatSync(link).isSymbolicLink());
    assert.match(job.log.join('\n'), new RegExp(`Child ${children[0]}: Parameters.N=\\d`));
    const { ids } = await rig.engine.list({ offset: 0, num: 99 });
    assert.deepEqual(
      ids.filter((other) => children.includes(other)),
      [],
    );
  });

  it('keeps apart what each child stages, also in a directory that they share', async () => {
    const id = await rig.submit({
      Executable: 'cat in/deep/common in/deep/own; echo "$PWD" > in/deep/own',
      Imports: [
        { From: ['inline:1', 'inline:2'], To: 'in/deep/own', Data: 'own' },
        { To: 'in/deep/common', Data: 'common ' },
      ],
    });
    assert.equal(jobStatus(await rig.finished(id)), 'SUCCESSFUL');
    for (const child of childrenIn(id)) {
      assert.equal(rig.output(id, `${child}/stdout`), 'common own');
      assert.ok(rig.output(id, `${child}/in/deep/own`).endsWith(`${child}\n`));
    }
    assert.equal(childrenIn(id).length, 2);
  });

  it('runs them all again at a restart, in directories of their own', async () => {
    const id = await rig.submit({ Executable: 'true', Parameters: { N: { Values: ['a', 'b'] } } });
    await rig.finished(id);
    const before = childrenIn(id);
    await rig.engine.restart(id);
    await until('second run', async () => (await rig.engine.get(id)).run.number === 2);
    assert.equal(jobStatus(await rig.finished(id)), 'SUCCESSFUL');
    await until('the former are gone', () => childrenIn(id).length === 2);
    assert.deepEqual(
      childrenIn(id).filter((child) => before.includes(child)),
      [],
    );
  });

  it('ends all children when it is aborted, and removes them when it is destroyed', async () => {
    const id = await rig.submit({
      Executable: 'echo $$ > pid; sleep 100',
      Parameters: { N: { Values: ['a', 'b', 'c'] } },
    });
    const pids = () =>
      childrenIn(id)
        .map((child) => join(rig.directory, 'jobs', id, child, 'pid'))
        .filter((path) => existsSync(path) && readFileSync(path, 'utf8') !== '');
    await until('all run', () => pids().length === 3);
    const running = pids().map((path) => readFileSync(path, 'utf8').trim());
    await rig.engine.abort(id);
    const job = await rig.finished(id);
    assert.equal(job.run.result?.message, 'Job aborted.');
    for (const pid of running) assert.equal(existsSync(`/proc/${pid}`), false);
    await rig.engine.destroy(id);
    await until('all gone', () => !existsSync(join(rig.directory, 'jobs', id)));
  });

  it('fails at once when no child could run', async () => {
    const job = await rig.finished(
      await rig.submit({ ApplicationName: 'No', Parameters: { N: { Values: ['a'] } } }),
    );
    assert.match(job.run.result!.message, /no application No/);
  });
});

describe('sweeps and crashes', { timeout: 60_000 }, () => {
  it('makes each child once, however often the server dies', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    const directory = scratch(scope);
    const values = ['1', '2', '3', '4', '5'];
    const description = { Executable: 'x', Parameters: { N: { Values: values } } };
    const started = new Map<string, number>();
    script.onSubmit = ({ attemptId }) => {
      started.set(attemptId, (started.get(attemptId) ?? 0) + 1);
      script.listed.set(attemptId, { state: 'RUNNING' });
      return Promise.resolve(attemptId);
    };
    const first = new Scope();
    const one = await start(first, script, directory);
    const id = await one.submit(description);
    // in the middle of making them: some are there, the parent does not know
    await until('some', async () => (await one.store.children(id)).length > 0);
    await one.engine.close();
    const second = new Scope();
    const two = await start(second, script, directory);
    await until('all run', () => started.size === values.length);
    await two.engine.close();
    await using third = new Scope();
    const { reaches, store } = await start(third, script, directory);
    script.listed.clear();
    await reaches(id, 'DONE');
    assert.equal((await store.children(id)).length, values.length);
    assert.deepEqual([...started.keys()].length, values.length);
  });

  it('takes each child up once, also one that is made while the jobs are still being read', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const store = createJobStore(await openStore(scope, directory));
    const plainId = '10000000-0000-4000-8000-000000000000';
    const parents = Array.from({ length: 9 }, (_, n) => `0${n}000000-0000-4000-8000-000000000000`);
    // jobs are read by ascending id: what this one makes comes after the first page
    const parentId = parents.find((id) => childId(id, 1, 0) > plainId)!;
    const shared = { targetId, ownerDn, terminationMs: Date.now() + 3_600_000 };
    await store.insert(
      aJob({
        ...{ ...shared, id: parentId, state: 'SWEEPING', run: { swept: true } },
        effects: [{ do: 'createChildren' }, { do: 'awaitChildren' }],
        plan: { ...aPlan, sweep: 1 },
        description: { Executable: 'x', Parameters: { N: { Values: ['1'] } } },
      }),
    );
    await store.insert(
      aJob({
        ...{ ...shared, id: plainId, state: 'PENDING', run: { attemptId: `${plainId}-1` } },
        ...{ effects: [{ do: 'submit' }], plan: aPlan, description: { Executable: 'x' } },
      }),
    );
    const script = new ScriptedTsi();
    script.onSubmit = ({ attemptId }) => {
      if (!attemptId.startsWith(plainId)) script.listed.set(attemptId, { state: 'RUNNING' });
      return Promise.resolve(attemptId);
    };
    const unfinished: JobStore['unfinished'] = async (page) => {
      const { afterId = '' } = page;
      if (afterId !== '')
        await until('it goes on', async () => (await store.find(plainId))?.state === 'DONE');
      return await store.unfinished(page);
    };
    const { submit } = await start(scope, script, directory, {
      store: { ...store, unfinished },
      config: { ...config, maxUnfinishedPerUser: 2 },
    });
    await until('the child runs', () => script.listed.size === 1);
    await assert.rejects(submit(), { code: 'JOB_LIMIT', message: /you have 2 unfinished jobs/ });
  });

  it('sweeps over files: each child stages its own', async () => {
    await using scope = new Scope();
    const staged: unknown[] = [];
    const { submit, reaches } = await start(scope, new ScriptedTsi(), undefined, {
      staging: {
        stage: (job) => {
          staged.push(job.description['Imports']);
          return Promise.resolve({ log: [] });
        },
      },
    });
    const id = await submit({
      Executable: 'x',
      Imports: [
        { From: ['inline://1', 'inline://2'], To: 'in/swept', Data: 'd' },
        { To: 'common', Data: 'c' },
      ],
    });
    await reaches(id, 'DONE');
    const name = (list: unknown) =>
      (list as { From?: string; To: string }[]).map((e) => e.From ?? e.To);
    assert.deepEqual(staged.map(name), [['common'], ['inline://1'], ['inline://2']]);
  });
});
