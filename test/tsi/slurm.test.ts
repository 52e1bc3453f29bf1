import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import type { TsiClient } from '#xnjs/tsi/tsi-client.js';
import {
  alice,
  clientOf,
  nobodyId,
  processesWith,
  scratch,
  startAgent,
  until,
  type AgentProcess,
} from './agent-process.js';
import { noSlurm, startSlurm, type SlurmCluster } from './slurm-cluster.js';

describe('a real Slurm behind the agent', { skip: noSlurm }, () => {
  const scope = new Scope();
  let slurm: SlurmCluster;
  let dir: string;
  let jobs = 0;

  before(async () => {
    slurm = await startSlurm(scope);
    dir = scratch(scope, nobodyId);
  });
  after(() => scope.close());

  const startSlurmAgent = (
    owner: Scope,
    more: readonly string[] = [],
    dir?: string,
  ): Promise<AgentProcess> => {
    const properties = ['tsi.bss=slurm', `tsi.slurm_conf=${slurm.conf}`, ...more];
    return startAgent(owner, { properties, ...(dir !== undefined && { dir }) });
  };

  function job(script: string, more: Partial<Parameters<TsiClient['submit']>[1]> = {}) {
    jobs += 1;
    const uspaceDir = join(dir, `job ${jobs}'s`);
    mkdirSync(uspaceDir);
    chownSync(uspaceDir, nobodyId, nobodyId);
    return {
      uspaceDir,
      outcomeDir: uspaceDir,
      stdout: 'stdout',
      stderr: 'stderr',
      jobName: 'test',
      attemptId: `attempt-${jobs}`,
      script,
      ...more,
    };
  }
  type Job = ReturnType<typeof job>;
  const output = ({ uspaceDir }: Job, name = 'stdout'): string =>
    readFileSync(join(uspaceDir, name), 'utf8');
  /** What names the attempt, in files and in the job's comment. */
  const tokenOf = ({ uspaceDir }: Job): string =>
    readdirSync(uspaceDir)
      .find((name) => name.startsWith('bss_submit_'))
      ?.slice('bss_submit_'.length) ?? 'none yet';
  const waits = 'while [ ! -e go ]; do sleep 0.1; done';
  const go = ({ uspaceDir }: Job): void => writeFileSync(join(uspaceDir, 'go'), '');
  const stateOf = async (tsi: TsiClient, id: string) => (await tsi.status()).get(id)?.state;
  const comes = (tsi: TsiClient, id: string, state: string | undefined) =>
    until(`${id} is ${state ?? 'gone'}`, async () => (await stateOf(tsi, id)) === state, 40_000);
  const detailsOf = async (tsi: TsiClient, id: string): Promise<Record<string, unknown>> =>
    JSON.parse(await tsi.details(alice, id)) as Record<string, unknown>;

  describe('jobs', { concurrency: true }, () => {
    let tsi: TsiClient;
    before(async () => {
      tsi = await clientOf(scope, await startSlurmAgent(scope));
    });

    it('runs a job as its user, with its umask, from the queue to its exit code', async () => {
      const request = job(
        'umask 0027\npwd; id -u; umask; echo "$LC_ALL"\necho oops >&2\n(exit 3); echo $? > code; exit 3',
      );
      const id = await tsi.submit(alice, request);
      await comes(tsi, id, undefined);
      assert.equal(output(request), `${request.uspaceDir}\n${nobodyId}\n0027\n\n`);
      assert.equal(output(request, 'stderr'), 'oops\n');
      assert.equal(output(request, 'code'), '3\n');
      const modeOf = (name: string): number => statSync(join(request.uspaceDir, name)).mode & 0o777;
      assert.equal(modeOf('stdout'), 0o640);
      const [details, token] = [await detailsOf(tsi, id), tokenOf(request)];
      assert.deepEqual(
        [modeOf(`UNICORE_Job_${token}`), modeOf(`bss_submit_${token}`)],
        [0o700, 0o700],
      );
      assert.deepEqual([details['ExitCode'], details['JobState']], ['3:0', 'FAILED']);
    });

    it('reserves nodes for its user alone, once for each id, and lets them go', async () => {
      const start = new Date(Date.now() + 3_600_000).toISOString().slice(0, 19) + '+0000';
      const later = {
        reservationOwner: 'CN=Alice,O=Grid',
        reservationId: 'r-1',
        start,
        totalProcessors: 1,
        wallTime: 600,
        queue: 'batch',
      };
      const reference = await tsi.makeReservation(alice, later);
      assert.equal(await tsi.makeReservation(alice, later), reference, 'the same');
      const found = await tsi.queryReservation(alice, reference);
      assert.deepEqual([found.state, found.start], ['WAITING', start]);
      assert.match(found.text ?? '', /Users=nobody /);
      const bob = { ...alice, login: 'daemon' };
      assert.equal((await tsi.queryReservation(bob, reference)).state, 'UNKNOWN');
      await tsi.cancelReservation(bob, reference);
      assert.equal((await tsi.queryReservation(alice, reference)).state, 'WAITING');
      const id = await tsi.submit(alice, job('true', { reservation: reference }));
      assert.equal((await detailsOf(tsi, id))['Reservation'], reference);
      await tsi.abort(alice, id);
      await tsi.cancelReservation(alice, reference);
      await tsi.cancelReservation(alice, reference);
      assert.equal((await tsi.queryReservation(alice, reference)).state, 'UNKNOWN');
      await assert.rejects(
        tsi.makeReservation(alice, { ...later, reservationId: 'r-2', totalProcessors: 99 }),
        { code: 'TSI_FAILED', message: /[Rr]eservation/ },
      );
      await assert.rejects(
        tsi.makeReservation(alice, { ...later, reservationId: 'r-3', queue: 'a Users=root' }),
        { code: 'TSI_FAILED', message: /#TSI_QUEUE/ },
      );
    });

    it('passes resources on, and names for output as they are meant', async () => {
      const outcomeDir = join(dir, `out "${process.pid}" #1 %j`);
      const jobName = 'a b --uid=0; "x" #y';
      const request = job('echo done', {
        outcomeDir,
        jobName,
        stdout: `it's 100% "out"`,
        queue: 'small',
        nodes: 1,
        processorsPerNode: 2,
        wallTime: 61,
        nodesFilter: 'fast',
        email: 'alice@example.org',
        siteResources: { COMMENT: 'for Bob', SOFTWARE: 'x' },
      });
      const id = await tsi.submit(alice, request);
      await comes(tsi, id, undefined);
      assert.equal(readFileSync(join(outcomeDir, request.stdout), 'utf8'), 'done\n');
      const details = await detailsOf(tsi, id);
      const { JobName, Partition, TimeLimit, NumTasks, MailUser, UserId, Comment } = details;
      assert.deepEqual(
        { JobName, Partition, TimeLimit, NumTasks, MailUser, UserId },
        {
          JobName: jobName,
          Partition: 'small',
          TimeLimit: '00:02:00',
          NumTasks: '2',
          MailUser: 'alice@example.org',
          UserId: 'nobody(65534)',
        },
      );
      assert.match(String(Comment), /^tsi-\d+ for Bob$/);
    });

    it('lists a job that waits, is held, is released and runs', async () => {
      const request = job(waits, { siteResources: {} });
      await slurm.run('scontrol', 'update', 'PartitionName=small', 'State=DOWN');
      const id = await tsi.submit(alice, { ...request, queue: 'small' });
      assert.equal(await stateOf(tsi, id), 'QUEUED');
      await tsi.hold(alice, id);
      assert.equal((await detailsOf(tsi, id))['Reason'], 'JobHeldUser');
      await slurm.run('scontrol', 'update', 'PartitionName=small', 'State=UP');
      await tsi.resume(alice, id);
      await comes(tsi, id, 'RUNNING');
      go(request);
      await comes(tsi, id, undefined);
    });

    it('refuses to suspend what runs where Slurm lets only operators do that, and lists what they suspend', async () => {
      const request = job(waits);
      const id = await tsi.submit(alice, request);
      await comes(tsi, id, 'RUNNING');
      await assert.rejects(tsi.hold(alice, id), {
        code: 'TSI_FAILED',
        message: /Access\/permission denied/,
      });
      await slurm.run('scontrol', 'suspend', id);
      assert.equal((await tsi.status()).get(id)?.rawState, 'SUSPENDED');
      await slurm.run('scontrol', 'resume', id);
      go(request);
      await comes(tsi, id, undefined);
    });

    it('runs the members of an array under one id, some at a time, each with output of its own', async () => {
      const request = job(`echo "$UC_ARRAY_TASK_ID"; touch started$UC_ARRAY_TASK_ID; ${waits}`, {
        arraySize: 3,
        arrayLimit: 2,
      });
      const id = await tsi.submit(alice, request);
      const started = () =>
        readdirSync(request.uspaceDir).filter((name) => name.startsWith('started'));
      await until('two run', () => started().length === 2);
      assert.equal(await stateOf(tsi, id), 'RUNNING');
      const { ArrayTasks } = await detailsOf(tsi, id);
      assert.ok(Array.isArray(ArrayTasks) && ArrayTasks.length === 3);
      go(request);
      await comes(tsi, id, undefined);
      const outputs = [0, 1, 2].map((member) => output(request, `stdout${member}`));
      assert.deepEqual(outputs, ['0\n', '1\n', '2\n']);
    });

    it('ends all members of an array, and leaves alone what has ended', async () => {
      const request = job('sleep 600', { arraySize: 4, arrayLimit: 2 });
      const id = await tsi.submit(alice, request);
      await comes(tsi, id, 'RUNNING');
      await tsi.abort(alice, id);
      await comes(tsi, id, undefined);
      await tsi.abort(alice, id);
      assert.equal((await detailsOf(tsi, id))['JobState'], 'CANCELLED');
    });

    it('has Slurm end a job at its wall time', async () => {
      const request = job('sleep 600; touch survived', { wallTime: 1 });
      const id = await tsi.submit(alice, request);
      await comes(tsi, id, 'RUNNING');
      assert.equal((await detailsOf(tsi, id))['TimeLimit'], '00:01:00');
      await slurm.run('scontrol', 'update', `JobId=${id}`, 'EndTime=now+1'); // its minute, shortened
      await comes(tsi, id, undefined);
      assert.equal((await detailsOf(tsi, id))['JobState'], 'TIMEOUT');
      assert.ok(!existsSync(join(request.uspaceDir, 'survived')));
    });

    it("refuses in Slurm's words what Slurm refuses", async () => {
      await assert.rejects(tsi.submit(alice, job('true', { queue: 'nowhere' })), {
        code: 'TSI_FAILED',
        message: /Batch job submission failed: Invalid partition name specified/,
      });
      await assert.rejects(tsi.submit(alice, job('true', { nodesFilter: 'slow' })), {
        message: /Invalid feature specification/,
      });
      await assert.rejects(tsi.details(alice, '999999'), { message: /Invalid job id specified/ });
      await assert.rejects(tsi.details(alice, '--version'), {
        message: /not the id of a Slurm job/,
      });
      await assert.rejects(tsi.hold(alice, '999999'), { message: /no job 999999/ });
    });

    it("does not let one user end another's job", async () => {
      const request = job(waits);
      const id = await tsi.submit(alice, request);
      await assert.rejects(tsi.abort({ login: 'daemon', groups: 'NONE' }, id), {
        message: /Access\/permission denied/,
      });
      go(request);
      await comes(tsi, id, undefined);
    });

    it('submits an attempt once, however often and however soon it comes', async () => {
      const request = job('echo x >> count');
      const ids = await Promise.all([1, 2, 3].map(() => tsi.submit(alice, request)));
      assert.equal(new Set(ids).size, 1);
      await comes(tsi, ids[0]!, undefined);
      assert.equal(await tsi.submit(alice, request), ids[0]);
      assert.equal(output(request, 'count'), 'x\n');
    });

    it('takes the directives of a raw job from its file', async () => {
      const directives =
        '#!/bin/bash\n#SBATCH --job-name=mine\n#SBATCH --output=own.txt\nexport MINE=1\n';
      const request = job('echo "$MINE"', { mode: 'raw', jobFile: 'job.sbatch', queue: 'nowhere' });
      writeFileSync(join(request.uspaceDir, 'job.sbatch'), directives);
      const id = await tsi.submit(alice, request);
      await comes(tsi, id, undefined);
      assert.equal(output(request, 'own.txt'), '1\n');
      assert.equal((await detailsOf(tsi, id))['JobName'], 'mine');
    });

    it('holds nodes in an allocation, runs a job there, and gives them back', async () => {
      const request = job('', { mode: 'allocate', nodes: 1, allocationId: 'ALLOCATION' });
      assert.equal(await tsi.submit(alice, request), '');
      const file = (name: string): string => join(request.uspaceDir, name);
      await until('it is answered', () => existsSync(file('UNICORE_SCRIPT_EXIT_CODE')));
      assert.equal(output(request, 'UNICORE_SCRIPT_EXIT_CODE'), '0\n');
      assert.match(output(request, 'UNICORE_SCRIPT_PID'), /^\d+\n$/);
      const allocationId = output(request, 'ALLOCATION').trim();
      assert.equal(await stateOf(tsi, allocationId), 'RUNNING');
      await tsi.submit(alice, request);
      assert.equal(output(request, 'ALLOCATION').trim(), allocationId);

      const step = job(`echo "$SLURM_JOB_ID $SLURM_STEP_ID"; ${waits}; exit 4`, { allocationId });
      const id = await tsi.submit(alice, step);
      assert.equal(await stateOf(tsi, id), 'RUNNING');
      await until(
        'it runs',
        () => existsSync(join(step.uspaceDir, 'stdout')) && output(step) !== '',
      );
      assert.equal(output(step), `${allocationId} 0\n`);
      go(step);
      await comes(tsi, id, undefined);
      assert.equal((await detailsOf(tsi, id))['ExitCode'], 4);
      await tsi.abort(alice, allocationId);
      await comes(tsi, allocationId, undefined);
    });

    it('says why there is no allocation', async () => {
      const request = job('', { mode: 'allocate', queue: 'nowhere' });
      await tsi.submit(alice, request);
      const code = join(request.uspaceDir, 'UNICORE_SCRIPT_EXIT_CODE');
      await until('it is answered', () => existsSync(code));
      assert.notEqual(readFileSync(code, 'utf8'), '0\n');
      assert.match(output(request, 'stderr'), /Invalid partition name/);
    });

    it('knows the partitions, and no budget where Slurm keeps no accounts', async () => {
      const node = { CPUsPerNode: 8, MemoryPerNode: 1_000 * 1024 ** 2 };
      assert.deepEqual(await tsi.partitions(alice), {
        batch: { Nodes: 1, isDefault: true, ...node },
        small: { Nodes: 1, isDefault: false, Runtime: 300, ...node },
      });
      const [budget] = await tsi.budget(alice);
      assert.equal(budget?.remaining, -1);
    });

    it('finds the job of an agent that died between sbatch and its answer', async () => {
      const own = new Scope();
      try {
        const slow = join(dir, 'slow-sbatch');
        writeFileSync(
          slow,
          '#!/bin/sh\nid=$(sbatch "$@")\ntouch submitted\nsleep 600 & echo $! >sleeper\nwait\necho "$id"',
        );
        chmodSync(slow, 0o755);
        const first = await startSlurmAgent(own, [`tsi.submit_cmd="${slow}"`]);
        const request = job('echo x >> count');
        const one = await clientOf(own, first);
        one.submit(alice, request).catch(() => undefined);
        const sleeper = await until('sbatch has answered', () =>
          existsSync(join(request.uspaceDir, 'sleeper'))
            ? Number(/^(\d+)\n/.exec(output(request, 'sleeper'))?.[1])
            : undefined,
        );
        first.child.kill('SIGKILL');
        await once(first.child, 'exit');
        process.kill(sleeper);
        const second = await startSlurmAgent(own, [], first.dir);
        const two = await clientOf(own, second);
        const id = await two.submit(alice, request);
        await comes(two, id, undefined);
        assert.equal(output(request, 'count'), 'x\n');
        const comments = (await slurm.run('squeue', '-h', '-t', 'all', '-o', '%k')).split('\n');
        const mark = `tsi-${tokenOf(request)}`;
        assert.equal(comments.filter((comment) => comment.trim() === mark).length, 1);
      } finally {
        await own.close();
      }
    });

    it('finds a job that ran and that Slurm has forgotten', async () => {
      const own = new Scope();
      try {
        const first = await startSlurmAgent(own);
        const request = job('echo x >> count');
        const one = await clientOf(own, first);
        const id = await one.submit(alice, request);
        await comes(one, id, undefined);
        first.child.kill('SIGKILL');
        await once(first.child, 'exit');
        // the record of a submission whose answer was lost
        writeFileSync(
          join(first.dir, 'state', 'slurm', 'batch', `${tokenOf(request)}.run`),
          'bss ',
        );
        const second = await startSlurmAgent(own, ['tsi.find_cmd=true'], first.dir);
        assert.equal(await (await clientOf(own, second)).submit(alice, request), id);
        assert.equal(output(request, 'count'), 'x\n');
      } finally {
        await own.close();
      }
    });
  });

  describe('a controller in trouble', () => {
    it('takes a controller that does not answer for what it is: no list, and no second job', async () => {
      const own = new Scope();
      try {
        const tsi = await clientOf(own, await startSlurmAgent(own));
        const waiting = job(waits);
        const known = await tsi.submit(alice, waiting);
        await comes(tsi, known, 'RUNNING');
        slurm.controller.kill('SIGSTOP');
        const request = job('echo x >> count');
        const submitted = tsi.submit(alice, request);
        const inHand = async () =>
          (await processesWith(`bss_submit_${tokenOf(request)}`)).length > 0;
        await until('sbatch asks', () => readdirSync(request.uspaceDir).length > 0 && inHand());
        await assert.rejects(tsi.status(), { code: 'TSI_FAILED', message: /timed out/ });
        await until('sbatch gives up', async () => !(await inHand()));
        slurm.controller.kill('SIGCONT');
        const id = await submitted;
        await comes(tsi, id, undefined);
        assert.equal(output(request, 'count'), 'x\n');
        assert.equal(await stateOf(tsi, known), 'RUNNING');
        go(waiting);
        await comes(tsi, known, undefined);
      } finally {
        slurm.controller.kill('SIGCONT');
        await own.close();
      }
    });
  });
});
