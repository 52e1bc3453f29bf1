import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chownSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { findProcess } from '#tsi/bss/processes.js';
import type { AgentLink } from '#xnjs/tsi/agent-link.js';
import { createTsi, type TsiClient } from '#xnjs/tsi/tsi-client.js';
import type { Submission } from '#xnjs/tsi/tsi.js';
import {
  alice,
  clientOf,
  isRoot,
  linkTo,
  nobodyId,
  processesWith,
  scratch,
  startAgent,
  until,
  type AgentProcess,
} from './agent-process.js';
import { openWorker } from './raw-worker.js';

const scope = new Scope();
let agent: AgentProcess;
let link: AgentLink;
let tsi: TsiClient;
let dir: string;
let attempts = 0;
const exits: string[] = [];

before(async () => {
  agent = await startAgent(scope);
  link = await linkTo(scope, agent.socket);
  link.onExit((id) => exits.push(id));
  tsi = scope.use(createTsi(link.transport(), { clock: systemClock, log: silentLog }));
  dir = scratch(scope, nobodyId);
});
after(() => scope.close());

function job(script: string, more: Partial<Submission> = {}): Submission {
  attempts += 1;
  const uspaceDir = join(dir, `j${attempts}`);
  mkdirSync(uspaceDir);
  if (isRoot) chownSync(uspaceDir, nobodyId, nobodyId);
  const files = { uspaceDir, outcomeDir: uspaceDir, stdout: 'stdout', stderr: 'stderr' };
  return { ...files, jobName: 'test', attemptId: `attempt-${attempts}`, script, ...more };
}
const read = ({ uspaceDir }: Submission, file: string): string =>
  readFileSync(join(uspaceDir, file), 'utf8');
const stateOf = async (id: string) => (await tsi.status()).get(id)?.state;
const gone = (id: string) => until('the job ends', async () => !(await tsi.status()).has(id));
const exitCode = async (id: string) =>
  (JSON.parse(await tsi.details(alice, id)) as { ExitCode?: number }).ExitCode;
let markers = 0;
/** Seconds that no other process sleeps for. */
const newMarker = (): string => `9${process.pid}${(markers += 1)}`;
const sleepers = (marker: string) => processesWith(`sleep\0${marker}`);

describe('a job that is held', () => {
  it('stands still with all its processes until it is resumed', async () => {
    const ticking =
      'for i in 1 2; do (while :; do echo x >> ticks$i; sleep 0.01; done) & done; wait';
    const request = job(ticking);
    const id = await tsi.submit(alice, request);
    const ticks = (): number[] =>
      [1, 2].map((at) => {
        const file = `ticks${at}`;
        return existsSync(join(request.uspaceDir, file)) ? read(request, file).length : 0;
      });
    await until('both tick', () => ticks().every((count) => count > 3));
    await tsi.hold(alice, id);
    assert.equal(await stateOf(id), 'SUSPENDED');
    const held = ticks();
    await tsi.execute(alice, 'sleep 0.2');
    assert.deepEqual(ticks(), held);
    await tsi.resume(alice, id);
    assert.equal(await stateOf(id), 'RUNNING');
    await until('both tick again', () => ticks().every((count, at) => count > (held[at] ?? 0)));
    await tsi.abort(alice, id);
  });

  it('can be aborted', async () => {
    const marker = newMarker();
    const id = await tsi.submit(alice, job(`sleep ${marker} & wait`));
    await until('it runs', async () => (await sleepers(marker)).length > 0);
    await tsi.hold(alice, id);
    await tsi.abort(alice, id);
    assert.deepEqual(await sleepers(marker), []);
    await gone(id);
  });

  it('is left as it is when it has ended, and unknown to others', async () => {
    const id = await tsi.submit(alice, job('true'));
    await gone(id);
    await tsi.hold(alice, id);
    await tsi.resume(alice, id);
    await assert.rejects(tsi.hold(alice, '12345'), { code: 'TSI_FAILED' });
    if (isRoot)
      await assert.rejects(tsi.hold({ login: 'daemon', groups: 'NONE' }, id), {
        code: 'TSI_FAILED',
      });
  });
});

describe('the wall time', () => {
  it('ends what traps SIGTERM, and what left its group but not its session', async () => {
    const marker = newMarker();
    const script = `trap '' TERM; python3 -c 'import os; os.setpgid(0, 0); os.execvp("sleep", ["sleep", "${marker}"])' & sleep ${marker}`;
    const id = await tsi.submit(alice, job(script, { wallTime: 1 }));
    await until('both run', async () => (await sleepers(marker)).length >= 2);
    await gone(id);
    assert.equal(await exitCode(id), 137);
    await until('nothing is left', async () => (await sleepers(marker)).length === 0);
  });
});

describe('a job array', () => {
  it('runs each member once, with its number and output of its own, under one id', async () => {
    const request = job(
      'echo "task $UC_ARRAY_TASK_ID"; echo e >&2; exit $((UC_ARRAY_TASK_ID == 3))',
      {
        arraySize: 5,
      },
    );
    const id = await tsi.submit(alice, request);
    await gone(id);
    const printed = [0, 1, 2, 3, 4].map((task) => read(request, `stdout${task}`));
    assert.deepEqual(
      printed,
      [0, 1, 2, 3, 4].map((task) => `task ${task}\n`),
    );
    assert.equal(read(request, 'stderr4'), 'e\n');
    assert.equal(await exitCode(id), 1);
  });

  it('runs no more at a time than it may', async () => {
    const script = 'echo + >> log; sleep 0.1; echo - >> log';
    const request = job(script, { arraySize: 7, arrayLimit: 2 });
    await gone(await tsi.submit(alice, request));
    let running = 0;
    let most = 0;
    const log = read(request, 'log').trim().split('\n');
    for (const line of log) {
      running += line === '+' ? 1 : -1;
      most = Math.max(most, running);
    }
    assert.deepEqual([log.length, most], [14, 2]);
  });

  it('is aborted as a whole, and starts no further member', async () => {
    const marker = newMarker();
    const request = job(`sleep ${marker}`, { arraySize: 50, arrayLimit: 2 });
    const id = await tsi.submit(alice, request);
    await until('two run', async () => (await sleepers(marker)).length === 2);
    await tsi.abort(alice, id);
    assert.deepEqual(await sleepers(marker), []);
    assert.equal(existsSync(join(request.uspaceDir, 'stdout40')), false);
    await gone(id);
  });

  it('is understood as a range and as a number', async () => {
    for (const header of ['#TSI_ARRAY 0-2', '#TSI_ARRAY 3']) {
      const { uspaceDir } = job('');
      const worker = await openWorker(scope, agent);
      worker.send(
        ...['#TSI_SUBMIT', `#TSI_USPACE_DIR ${uspaceDir}`, `#TSI_OUTCOME_DIR ${uspaceDir}`],
        ...['#TSI_STDOUT o', '#TSI_STDERR e', header, '#TSI_SCRIPT', 'echo $UC_ARRAY_TASK_ID'],
        ...[`#TSI_IDENTITY ${alice.login} NONE`, ''],
      );
      assert.equal(await worker.reply(7), 'TSI_OK\n');
      await until('the last has printed', () => {
        const last = join(uspaceDir, 'o2');
        return existsSync(last) && readFileSync(last, 'utf8') === '2\n';
      });
      assert.equal(existsSync(join(uspaceDir, 'o3')), false);
    }
  });
});

describe('the end of a job', () => {
  it('is told at once', async () => {
    const request = job('while [ ! -e go ]; do sleep 0.02; done');
    const id = await tsi.submit(alice, request);
    assert.equal(exits.includes(id), false);
    writeFileSync(join(request.uspaceDir, 'go'), '');
    await until('it is told', () => exits.includes(id));
    assert.equal(await stateOf(id), undefined);
    assert.equal(await exitCode(id), 0);
  });

  it('is told of jobs that an agent before started, and again after a lost link', async () => {
    await using own = new Scope();
    const first = await startAgent(own);
    const request = job('while [ ! -e go ]; do sleep 0.02; done');
    const id = await (await clientOf(own, first)).submit(alice, request);
    first.child.kill('SIGKILL');
    await once(first.child, 'exit');
    const told: string[] = [];
    await startAgent(own, { dir: first.dir });
    const second = await linkTo(own, first.socket);
    second.onExit((ended) => told.push(ended));
    writeFileSync(join(request.uspaceDir, 'go'), '');
    await until('it is told', () => told.includes(id));
  });

  it('is told to nobody who has stopped listening', async () => {
    const told: string[] = [];
    const stop = link.onExit((id) => told.push(id));
    stop();
    const id = await tsi.submit(alice, job('true'));
    await until('others are told', () => exits.includes(id));
    assert.deepEqual(told, []);
  });
});

describe('allocations and raw jobs', () => {
  it('are refused where there are no nodes to allocate', async () => {
    await assert.rejects(tsi.submit(alice, job('', { mode: 'allocate' })), { code: 'TSI_FAILED' });
  });

  it('run as they stand: there are no directives to read', async () => {
    const request = job('echo raw', { mode: 'raw', jobFile: 'job.sh' });
    await gone(await tsi.submit(alice, request));
    assert.equal(read(request, 'stdout'), 'raw\n');
  });
});

const versions = [
  { version: '11.2.1', way: 'by the command' },
  { version: '9.1.0', way: 'by a background script' },
] as const;
for (const { version, way } of versions)
  describe(`a script on the login node, ${way}`, () => {
    const own = new Scope();
    let client: TsiClient;

    before(async () => {
      const properties = [`tsi.version=${version}`];
      client = await clientOf(own, await startAgent(own, { properties }));
    });
    after(() => own.close());
    const finished = (pid: string) =>
      until('it ends', async () => !(await client.processes()).has(Number(pid)));

    it('runs as the user in its directory, with its output in files', async () => {
      const request = job('pwd; id -u; echo err >&2');
      await finished(await client.runOnLoginNode(alice, request));
      const [where, uid] = read(request, 'stdout').split('\n');
      assert.equal(where, request.uspaceDir);
      if (isRoot) assert.equal(uid, String(nobodyId));
      assert.equal(read(request, 'stderr'), 'err\n');
    });

    it('lives as long as its process is listed', async () => {
      const request = job('while [ ! -e go ]; do sleep 0.02; done');
      const pid = await client.runOnLoginNode(alice, request);
      assert.ok((await client.processes()).has(Number(pid)));
      writeFileSync(join(request.uspaceDir, 'go'), '');
      await finished(pid);
    });

    it('runs once, however often it is asked for', async () => {
      const request = job('echo x >> count; sleep 0.3');
      const pids = await Promise.all([1, 2, 3].map(() => client.runOnLoginNode(alice, request)));
      assert.equal(new Set(pids).size, 1);
      await finished(pids[0]!);
      assert.equal(await client.runOnLoginNode(alice, request), pids[0]);
      assert.equal(read(request, 'count'), 'x\n');
    });

    it('is ended with all it has started', async () => {
      const marker = newMarker();
      const stubborn = version.startsWith('11') ? "trap '' TERM; " : '';
      const script = `${stubborn}sleep ${marker} & sleep ${marker} & wait; sleep ${marker}`;
      const pid = await client.runOnLoginNode(alice, job(script));
      await until('it runs', async () => (await sleepers(marker)).length === 2);
      await client.killOnLoginNode(alice, pid);
      assert.deepEqual(await sleepers(marker), []);
      await finished(pid);
      await client.killOnLoginNode(alice, pid);
    });

    it('is refused in a directory that does not exist', async () => {
      const request = { ...job('true'), uspaceDir: '/nowhere', outcomeDir: '/nowhere' };
      await assert.rejects(client.runOnLoginNode(alice, request), { code: 'TSI_FAILED' });
    });
  });

describe('a script on the login node', () => {
  it('has its end told, by its pid', async () => {
    const pid = await tsi.runOnLoginNode(alice, job('true'));
    await until('it is told', () => exits.includes(pid));
  });

  it('is no job of the batch system', async () => {
    const before = (await tsi.status()).size;
    const pid = await tsi.runOnLoginNode(alice, job('sleep 600'));
    assert.equal((await tsi.status()).size, before);
    await tsi.killOnLoginNode(alice, pid);
  });

  it('is held, resumed and ended by the name that an XNJS gives it, for its owner alone', async () => {
    const marker = newMarker();
    const pid = await tsi.runOnLoginNode(alice, job(`sleep ${marker} & wait`));
    const id = `INTERACTIVE_login.node_1_${pid}`;
    const state = () => findProcess(Number(pid))?.state;
    await until('it runs', async () => (await sleepers(marker)).length > 0);
    await tsi.hold(alice, id);
    assert.equal(state(), 'T');
    await tsi.resume(alice, id);
    assert.equal(state(), 'S');
    const others = [[alice, 'INTERACTIVE_node_1']] as [typeof alice, string][];
    if (isRoot) others.push([{ login: 'daemon', groups: 'NONE' }, id]);
    for (const [who, what] of others)
      await assert.rejects(tsi.hold(who, what), { code: 'TSI_FAILED' });
    await tsi.abort(alice, id);
    assert.deepEqual(await sleepers(marker), []);
    await tsi.abort(alice, id);
  });

  it('keeps its pid over the death of the agent', async () => {
    await using own = new Scope();
    const first = await startAgent(own);
    const request = job('sleep 600');
    const pid = await (await clientOf(own, first)).runOnLoginNode(alice, request);
    first.child.kill('SIGKILL');
    await once(first.child, 'exit');
    const client = await clientOf(own, await startAgent(own, { dir: first.dir }));
    assert.equal(await client.runOnLoginNode(alice, request), pid);
    assert.ok((await client.processes()).has(Number(pid)));
    await client.killOnLoginNode(alice, pid);
  });

  for (const pid of ['', '0', '1', '-1', '4 5', '12;id'])
    it(`is not ended by the number ${JSON.stringify(pid)}`, () =>
      assert.rejects(tsi.killOnLoginNode(alice, pid), { code: 'TSI_PROTOCOL' }));
});
