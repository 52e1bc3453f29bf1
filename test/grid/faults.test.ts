import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, describe, it } from 'node:test';
import { readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { deleteAndWait } from '#cli/client/resources.js';
import { createTargetSystem, waitUntilReady } from '#cli/quickstart/main-job.js';
import { asGridError } from '#kernel/errors.js';
import type { HttpClient } from '#kernel/http/client.js';
import { eventually, Grid, noContainers, noMachines, sitePath } from './grid.js';

type Job = { status: string; statusMessage: string; exitCode?: string };
type Site = { resourceStatus: string; resourceStatusMessage: string; vm: { state: string } };
const signal = AbortSignal.timeout(600_000);

/** Processes below one, of this host. */
function descendantsOf(pid: string): string[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return children
    .split(' ')
    .filter(Boolean)
    .flatMap((child) => [child, ...descendantsOf(child)]);
}

const runs = (pid: string, words: string): boolean =>
  readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(words);

describe('faults', { skip: noMachines }, () => {
  let grid: Grid;
  let user: HttpClient;
  let site: string;
  before(async () => {
    grid = await Grid.start();
    await grid.publishDemo('vm');
    user = await grid.user();
    site = await createTargetSystem(user, 'vsite-demo', {});
    await waitUntilReady(user, site, signal, () => undefined);
  });
  after(async () => grid[Symbol.asyncDispose]());

  const readJob = async (path: string): Promise<Job> => (await user.json('GET', path)).body as Job;
  const readSite = async (): Promise<Site> => (await user.json('GET', site)).body as Site;
  const submit = async (job: object, where = site): Promise<string> => {
    const { headers } = await user.json('POST', where, job);
    return new URL(String(headers['location'])).pathname;
  };
  const until = (path: string, status: string): Promise<Job> =>
    eventually(`${path} ${status}`, async () => {
      const job = await readJob(path);
      return job.status === status && job;
    });
  const stdoutOf = async (path: string): Promise<string> => {
    const id = path.split('/').at(-1)!;
    const { body } = await user.download(`${sitePath}/storages/${id}-uspace/files/stdout`);
    return await text(body);
  };

  it('server killed while a job runs: it ends SUCCESSFUL and ran once', async () => {
    const job = await submit({ Executable: 'echo ran >> $HOME/runs; sleep 5; cat $HOME/runs' });
    await until(job, 'RUNNING');
    await grid.killServer();
    await grid.startServer();
    const ended = await until(job, 'SUCCESSFUL');
    assert.equal(ended.exitCode, '0');
    assert.equal(await stdoutOf(job), 'ran\n');
    assert.equal((await readSite()).resourceStatus, 'READY');
  });

  it('server killed while a target system starts: it becomes READY all the same', async () => {
    const second = await createTargetSystem(user, 'vsite-demo', {});
    await grid.killServer();
    await grid.startServer();
    await waitUntilReady(user, second, signal, () => undefined);
    assert.equal((await grid.domains('qemu')).length, 2);
    await deleteAndWait(user, second, signal);
  });

  it('server killed while a target system is deleted: nothing of it is left', async () => {
    const second = await createTargetSystem(user, 'vsite-demo', {});
    await user.json('DELETE', second);
    await grid.killServer();
    await grid.startServer();
    await eventually('the machine is gone', async () => (await grid.domains('qemu')).length === 1);
    await eventually(
      'its directory is gone',
      async () => (await grid.machineDirectories()).length === 1,
    );
    // its record goes after all that it had
    await eventually('it is known no more', () =>
      user.json('GET', second).then(
        () => false as const,
        (error: unknown) => asGridError(error)?.code === 'NOT_FOUND',
      ),
    );
  });

  // of a container, whose processes root of this host can kill; a machine's is kept alive by the same script
  it(
    'agent killed: it is started again, and the job that runs meanwhile ends SUCCESSFUL and ran once',
    { skip: noContainers },
    async () => {
      const image = await grid.publishDemo('container');
      const there = await createTargetSystem(user, image, {});
      await waitUntilReady(user, there, signal, () => undefined);
      const waits = 'until [ -e go ]; do sleep 0.1; done; echo ran';
      const job = await submit({ Executable: waits }, there);
      await until(job, 'RUNNING');
      const domain = `vsite-${there.split('/').at(-1)!}`;
      const container = descendantsOf(`${grid.libvirtd.pid!}`).find((pid) => runs(pid, domain));
      assert.ok(container !== undefined, 'there is a container');
      const agent = descendantsOf(container).find((pid) => runs(pid, 'node\0/usr/lib/vsite/agent'));
      assert.ok(agent !== undefined, 'there is an agent');
      process.kill(Number(agent), 'SIGKILL');
      const go = `${sitePath}/storages/${job.split('/').at(-1)!}-uspace/files/go`;
      await eventually('it can be written to again', () =>
        user.upload('PUT', go, Readable.from(['now'])).then(
          () => true,
          () => false,
        ),
      );
      await until(job, 'SUCCESSFUL');
      assert.equal(await stdoutOf(job), 'ran\n');
      await deleteAndWait(user, there, signal);
    },
  );

  it('QEMU stopped: the target system is UNREACHABLE, not FAILED, and comes back with its job', async () => {
    const job = await submit({ Executable: 'sleep 3; echo still here' });
    await until(job, 'RUNNING');
    const guest = `guest=vsite-${site.split('/').at(-1)!}`;
    const becomes = (state: string): Promise<true> =>
      eventually(`the target system is ${state}`, async () => {
        const found = (await readSite()).vm.state;
        assert.notEqual(found, 'FAILED', 'silence is no evidence of death');
        return found === state;
      });
    execFileSync('pkill', ['-STOP', '-f', guest]);
    try {
      await becomes('UNREACHABLE');
      assert.equal((await readJob(job)).status, 'RUNNING');
    } finally {
      execFileSync('pkill', ['-CONT', '-f', guest]);
    }
    await becomes('READY');
    await until(job, 'SUCCESSFUL');
    assert.equal(await stdoutOf(job), 'still here\n');
  });

  it('QEMU killed: the target system says so within 2 s, its job ends FAILED with the reason', async () => {
    const running = await submit({ Executable: 'sleep 600' });
    await until(running, 'RUNNING');
    const id = site.split('/').at(-1)!;
    execFileSync('pkill', ['-KILL', '-f', `guest=vsite-${id}`]);
    const killed = performance.now();
    const gone = await eventually('the site says so', async () => {
      const found = await readSite();
      return found.vm.state === 'FAILED' && found;
    });
    const noticedMs = performance.now() - killed;
    assert.ok(noticedMs < 2_000, `noticed after ${Math.round(noticedMs)} ms`);
    assert.equal(gone.resourceStatus, 'ERROR');
    assert.match(gone.resourceStatusMessage, /ended unexpectedly/);
    const job = await until(running, 'FAILED');
    assert.match(job.statusMessage, /ended unexpectedly/);
    await assert.rejects(submit({ Executable: 'true' }), { code: 'CONFLICT' });
    await deleteAndWait(user, site, signal);
    assert.deepEqual(await grid.domains('qemu'), []);
    assert.deepEqual(await grid.machineDirectories(), []);
  });
});
