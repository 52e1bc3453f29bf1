import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { TsiError } from '#tsi/protocol/error.js';
import type { Target, Targets } from '#xnjs/target.js';
import type { TsiClient } from '#xnjs/tsi/tsi-client.js';
import { TsiGroup } from '#xnjs/tsi/tsi-group.js';
import { LocalTargets, scratch, until } from './rig.js';
import { ScriptedTsi, start } from './scripted.js';

const names = ['login1.x.org', 'login2.x.org', 'gpu1.x.org'] as const;
type Name = (typeof names)[number];

/** A target system of several login nodes: the group is real, its TSIs do what the test says. */
function startNodes(scope: Scope) {
  const scripts = new Map(names.map((name) => [name, new ScriptedTsi()]));
  const down = new Set<Name>();
  const nodes = [...scripts].map(([name, { tsi }]) => ({
    name,
    categories: [name.startsWith('gpu') ? 'gpu' : 'login'],
    tsi: new Proxy(tsi as TsiClient, {
      get: (of, key: keyof TsiClient) => {
        if (key === Symbol.asyncDispose) return () => Promise.resolve();
        if (down.has(name))
          return () => Promise.reject(new TsiError('TSI_UNAVAILABLE', `${name} is down`));
        return key === 'execute' ? () => Promise.resolve('') : (Reflect.get(of, key) as unknown);
      },
    }),
  }));
  const options = { name: 'cluster', nodes, clock: systemClock, log: silentLog };
  const group = scope.use(new TsiGroup({ ...options, firstPauseMs: 5, maxPauseMs: 20 }));
  const local = new LocalTargets(() => group.tsi, '/jobs');
  const targets: Targets = {
    find: (id): Target | undefined => {
      const target = local.find(id);
      return target && { ...target, loginNodes: () => group };
    },
    subscribe: (listener) => local.subscribe(listener),
  };
  const script = (name: Name): ScriptedTsi => scripts.get(name)!;
  const ends = (): void => scripts.forEach(({ living }) => living.clear());
  /** Who was asked to start something. */
  const launched = (): Name[] =>
    names.filter((name) => script(name).launches.length + script(name).submissions.length > 0);
  return { targets, script, down, ends, launched };
}

const beside = (more: object = {}) => ({
  Executable: 'x',
  'Job type': 'ON_LOGIN_NODE',
  ...more,
});

describe('a job and its login node', { timeout: 60_000 }, () => {
  for (const [wish, expected] of [
    ['login2.x.org', 'login2.x.org'],
    ['LOGIN2', 'login2.x.org'],
    ['*2.x.*', 'login2.x.org'],
    ['any:gpu', 'gpu1.x.org'],
  ] as const)
    it(`runs on ${expected} when it asks for ${wish}`, async () => {
      await using scope = new Scope();
      const { targets, ends, launched, script } = startNodes(scope);
      const { engine, submit, reaches } = await start(scope, script(names[0]), undefined, {
        targets,
      });
      const id = await submit(beside({ 'Login node': wish }));
      await reaches(id, 'RUNNING');
      assert.deepEqual(launched(), [expected]);
      const { run, log } = await engine.get(id);
      assert.equal(run.bssId, `INTERACTIVE_${expected}_1001`);
      assert.match(log.join('\n'), new RegExp(`Login node: ${expected}`));
      ends();
      await reaches(id, 'DONE');
    });

  it('goes round the nodes when it asks for none, pre- and post-command where the job is', async () => {
    await using scope = new Scope();
    const { targets, ends, script } = startNodes(scope);
    const { submit, reaches } = await start(scope, script(names[0]), undefined, { targets });
    const used = new Set<string>();
    for (let i = 0; i < 3; i += 1) {
      const before = names.map((name) => script(name).launches.length);
      const id = await submit(beside({ 'User precommand': 'before', 'User postcommand': 'after' }));
      const count = (): number[] =>
        names.map((name, at) => script(name).launches.length - (before[at] ?? 0));
      for (let parts = 1; parts <= 3; parts += 1) {
        for (const name of names)
          for (const which of ['PRE', 'POST'])
            script(name).files.set(`.UNICORE_${which}_0/UNICORE_SCRIPT_EXIT_CODE`, '0\n');
        await until(`part ${parts}`, () => count().includes(parts));
        assert.equal(count().filter((launches) => launches > 0).length, 1);
        ends();
      }
      await reaches(id, 'DONE');
      used.add(names[count().indexOf(3)]!);
    }
    assert.ok(used.size > 1, 'always the same node');
  });

  it('is told that no node is called as it wishes, and which there are, before it does anything', async () => {
    await using scope = new Scope();
    const { targets, script, launched } = startNodes(scope);
    const { engine, submit, reaches } = await start(scope, script(names[0]), undefined, {
      targets,
    });
    for (const description of [
      beside({ 'Login node': 'fat*' }),
      { Executable: 'x', 'User precommand': 'y', 'Login node': 'fat*' },
    ]) {
      const id = await submit(description);
      await reaches(id, 'DONE');
      const message = (await engine.get(id)).run.result?.message ?? '';
      assert.match(
        message,
        /Login node: target system cluster has no node "fat\*", only login1\.x\.org, login2/,
      );
    }
    assert.deepEqual(launched(), []);
    // what runs in the batch system has no login node
    const id = await submit({ Executable: 'x', 'Login node': 'fat*' });
    await reaches(id, 'DONE');
    assert.equal((await engine.get(id)).run.result?.message, '');
  });

  it('is watched and ended on its own node, whatever has the same number elsewhere', async () => {
    await using scope = new Scope();
    const { targets, script } = startNodes(scope);
    const { submit, reaches, engine } = await start(scope, script(names[0]), undefined, {
      targets,
    });
    const one = await submit(beside({ 'Login node': 'login1' }));
    const two = await submit(beside({ 'Login node': 'login2' }));
    await reaches(one, 'RUNNING');
    await reaches(two, 'RUNNING');
    script('login1.x.org').living.clear();
    await reaches(one, 'DONE');
    await engine.abort(two);
    await reaches(two, 'DONE');
    const killed = names.map((name) => script(name).killed);
    assert.deepEqual(killed, [[], ['1001'], []]);
  });

  it('waits for the node it wants, and keeps no other job waiting', async () => {
    await using scope = new Scope();
    const { targets, script, down, ends } = startNodes(scope);
    const { submit, reaches, engine } = await start(scope, script(names[0]), undefined, {
      targets,
    });
    const running = await submit(beside({ 'Login node': 'login1' }));
    await reaches(running, 'RUNNING');
    down.add('login1.x.org');
    const waits = await submit(beside({ 'Login node': 'login1' }));
    await reaches(waits, 'PENDING');
    const other = await submit(beside({ 'Login node': 'login2' }));
    await reaches(other, 'RUNNING');
    script('login2.x.org').living.clear();
    await reaches(other, 'DONE');
    assert.equal((await engine.get(waits)).state, 'PENDING');
    assert.equal((await engine.get(running)).state, 'RUNNING');
    ends();
    down.clear();
    await reaches(running, 'DONE');
    await reaches(waits, 'RUNNING');
    ends();
    await reaches(waits, 'DONE');
  });

  it('finds it again after a crash, and asks no other', async () => {
    await using scope = new Scope();
    const nodes = startNodes(scope);
    const directory = scratch(scope);
    const first = new Scope();
    const one = await start(first, nodes.script(names[0]), directory, { targets: nodes.targets });
    let lose!: (error: Error) => void;
    const lost = new Promise<string>((_, reject) => (lose = reject));
    for (const name of names) nodes.script(name).onLaunch = () => lost;
    const id = await one.submit(beside());
    await until('it is being started', () => nodes.launched().length === 1);
    const [chosen] = nodes.launched();
    const closed = first.close();
    lose(new TsiError('TSI_UNAVAILABLE', 'its answer is lost'));
    await closed;
    for (const name of names) {
      const script = nodes.script(name);
      script.onLaunch = () => Promise.resolve(script.alive());
    }
    const two = await start(scope, nodes.script(names[0]), directory, { targets: nodes.targets });
    await two.reaches(id, 'RUNNING');
    assert.deepEqual(nodes.launched(), [chosen]);
    const attempts = nodes.script(chosen!).launches.map(({ attemptId }) => attemptId);
    assert.deepEqual(attempts, [`${id}-1`, `${id}-1`]);
  });
});
