import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { text as readText } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import type { z } from 'zod';
import { cpio } from '#cli/image/archive.js';
import { buildDemoVm } from '#cli/image/build.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { createTargetSystem, publish } from '#cli/quickstart/main-job.js';
import type { HttpClient } from '#kernel/http/client.js';
import { systemClock } from '#kernel/clock.js';
import { silentLog as log } from '#kernel/log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { Lease } from '#xnjs/persistence/sql-lease.js';
import { Site } from '#targetsystem/rest/answers.js';
import { eventually, Grid, noMachines, sitePath, stdoutOf } from '../grid/grid.js';
import { findDescendant } from '../kernel/libvirt/daemon.js';

type Site = z.output<typeof Site>;

/** First process of a machine whose jobs can have the agent killed, which is otherwise the demo machine. */
const init = `#!/bin/sh
export PATH=/usr/bin:/bin
mount -t devtmpfs devtmpfs /dev # what runs beside it reads from /dev/null
mkfifo -m 666 /kill-agent
(while read -r line < /kill-agent; do kill -9 $(pidof node); done) &
exec /init
`;

describe('faults of machines and hypervisors', { skip: noMachines, timeout: 400_000 }, () => {
  let grid: Grid;
  let user: HttpClient;
  /** Paths of two target systems, whose kernels stop for good when they are sent an NMI. */
  let [one, other] = ['', ''];
  before(async () => {
    grid = await Grid.start({
      prepare: async (it) => {
        await it.set('targetsystem', 'xnjs.targetSystems.compareSeconds', 1);
        await it.set('targetsystem', 'xnjs.targetSystems.orphanGraceSeconds', 1);
      },
    });
    const options = { cacheDir: join(defaultCacheDirectory(), 'images'), log };
    const image = await buildDemoVm(options);
    const script = { type: 'file', content: Buffer.from(init), mode: 0o755, owner: 0 } as const;
    const initrd = join(grid.layout.state, 'initrd');
    // the kernel unpacks one archive after the other; one that is compressed has to be the last
    const archives = [...cpio(new Map([['/first', script]])), await readFile(image.initrd)];
    await writeFile(initrd, Buffer.concat(archives));
    const { metadata } = image;
    const boot = { ...metadata.boot, commandLine: 'unknown_nmi_panic panic=0 rdinit=/first' };
    const parts = { ...image.parts, initrd };
    await publish(await grid.creator(), { ...image, metadata: { ...metadata, boot }, parts });
    user = await grid.user();
    const make = () => createTargetSystem(user, 'vsite-demo', {});
    one = await make();
    await becomes(one, 'READY', /./, 60_000);
    // boots while the first is tried
    other = await make();
    await eventually('it has been started', async () => {
      return (await readSite(other)).vm.boot['startedMs'] !== undefined;
    });
  });
  after(async () => grid[Symbol.asyncDispose]());

  const readSite = async (path: string) => Site.parse((await user.json('GET', path)).body);
  const domainOf = (path: string) => `vsite-${path.split('/').at(-1)!}`;
  const virsh = (...args: string[]) =>
    execFileSync('virsh', ['-q', '-c', grid.libvirtd.uri('qemu'), ...args], { encoding: 'utf8' });
  /** Whether there is a libvirtd, and it has the machine. */
  const canList = () => {
    try {
      return virsh('list', '--name').includes(domainOf(one));
    } catch {
      return false;
    }
  };
  const vsite = async (...args: string[]): Promise<string> => {
    const child = grid.vsite(args);
    const closed = once(child, 'close') as Promise<[number | null]>;
    const texts = [readText(child.stderr), readText(child.stdout)] as const;
    const [said, printed, [code]] = await Promise.all([...texts, closed]);
    assert.equal(code, 0, said);
    return printed.trim();
  };
  const qemuOf = (path: string) =>
    Number(execFileSync('pgrep', ['-o', '-f', `guest=${domainOf(path)}`], { encoding: 'utf8' }));
  const libvirtd = () => findDescendant(grid.libvirtd.pid!, 'libvirtd');
  const saidOf = ({ vm }: Site) => vm.views!.map(({ source, says }) => `${source} ${says}`);

  /** Until it is in the state, for that reason: within the stated time, or twice that on a busy host. */
  async function becomes(path: string, state: string | RegExp, fact: RegExp, withinMs: number) {
    let last = '';
    return await eventually(
      `${String(state)} ${String(fact)}`,
      async () => {
        const found = await readSite(path);
        last = `${found.vm.state}: ${found.vm.evidence.fact}`;
        assert.notEqual(found.vm.state, 'FAILED', last);
        return RegExp(state).test(found.vm.state) && fact.test(found.vm.evidence.fact) && found;
      },
      2 * withinMs,
    ).catch((error: unknown) => {
      throw new Error(`it is ${last}`, { cause: error });
    });
  }

  it('paused from outside: PAUSED within 1 s, DISABLED to clients of UNICORE; READY when it goes on', async () => {
    virsh('suspend', domainOf(one));
    const paused = await becomes(one, 'PAUSED', /by order/, 1_000);
    assert.deepEqual(
      [paused.resourceStatus, paused.vm.evidence.source],
      ['DISABLED', 'hypervisor'],
    );
    virsh('resume', domainOf(one));
    await becomes(one, 'READY', /./, 1_000);
  });

  it('libvirtd hangs: DEGRADED within 12 s, and work goes on; READY when it goes on', async () => {
    const pid = await libvirtd();
    process.kill(pid, 'SIGSTOP');
    try {
      const degraded = await becomes(one, 'DEGRADED', /hypervisor does not answer/, 12_000);
      assert.equal(degraded.resourceStatus, 'READY');
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await becomes(one, 'READY', /./, 8_000);
  });

  it('libvirtd killed: the next one finds the machines, which never noticed', async () => {
    const pid = await libvirtd();
    const machine = qemuOf(one);
    process.kill(pid, 'SIGKILL');
    await eventually('there is another', async () => (await libvirtd().catch(() => pid)) !== pid);
    await eventually('it answers', () => Promise.resolve(canList()));
    virsh('suspend', domainOf(one));
    await becomes(one, 'PAUSED', /by order/, 4_000);
    virsh('resume', domainOf(one));
    await becomes(one, 'READY', /./, 4_000);
    assert.equal(qemuOf(one), machine);
  });

  type Job = { status: string; statusMessage: string; submissionTime: string; log: string[] };
  const submit = async (job: object): Promise<string> =>
    new URL(String((await user.json('POST', one, job)).headers['location'])).pathname;
  async function jobIs(path: string, status: string): Promise<Job> {
    let last: Partial<Job> = {};
    return await eventually(`${path} is ${status}`, async () => {
      const job = (await user.json('GET', path)).body as Job;
      last = job;
      return job.status === status && job;
    }).catch((error: unknown) => {
      throw new Error(`it is ${last.status}: ${last.statusMessage}`, { cause: error });
    });
  }

  it('agent killed: UNREACHABLE at most, READY with another within 15 s; what runs ends SUCCESSFUL', async () => {
    const agent = async (): Promise<string> => {
      const job = await submit({ Executable: 'pidof node' });
      await jobIs(job, 'SUCCESSFUL');
      return await stdoutOf(user, job);
    };
    const before = await agent();
    const job = await submit({ Executable: 'until [ -e go ]; do sleep 0.1; done; echo ran' });
    await jobIs(job, 'RUNNING');
    const { generation } = (await readSite(one)).vm;
    const seen = new Set<string>();
    const killer = await submit({ Executable: 'echo now > /kill-agent' });
    const asked = performance.now();
    await eventually('its end is heard of', async () => {
      seen.add((await readSite(one)).vm.state);
      return ((await user.json('GET', killer)).body as Job).status === 'SUCCESSFUL';
    });
    const tookMs = performance.now() - asked;
    assert.ok(tookMs < 2 * 15_000, `it took ${Math.round(tookMs)} ms`);
    for (const state of seen) assert.match(state, /^(READY|UNREACHABLE)$/);
    assert.notEqual(await agent(), before, 'it is another process');
    const go = `${sitePath}/storages/${job.split('/').at(-1)!}-uspace/files/go`;
    await user.upload('PUT', go, Readable.from(['now']));
    await jobIs(job, 'SUCCESSFUL');
    assert.equal(await stdoutOf(user, job), 'ran\n');
    const { vm } = await becomes(one, 'READY', /./, 1_000);
    assert.equal(vm.generation, generation, 'its machine never noticed');
  });

  it('parked on disk while a job runs, and its server killed meanwhile: the job goes on where it was', async () => {
    const count = 'n=0; while [ $n -lt 30 ]; do n=$((n+1)); echo $n; sleep 0.1; done';
    const job = await submit({ Executable: count });
    await jobIs(job, 'RUNNING');
    await vsite('site', 'freeze', one.split('/').at(-1)!);
    const parked = await becomes(one, 'SUSPENDED', /parked on disk/, 10_000);
    const parkedMs = Date.now();
    assert.equal(parked.resourceStatus, 'DISABLED');
    assert.throws(() => qemuOf(one), 'it takes no memory');
    await grid.killServer();
    await grid.startServer();
    assert.equal((await readSite(one)).vm.state, 'SUSPENDED');
    assert.equal((await jobIs(job, 'RUNNING')).status, 'RUNNING');
    await vsite('site', 'thaw', one.split('/').at(-1)!);
    const stoodMs = Date.now() - parkedMs;
    assert.equal((await readSite(one)).vm.state, 'READY');
    await jobIs(job, 'SUCCESSFUL');
    const lines = Array.from({ length: 30 }, (_, n) => `${n + 1}\n`);
    assert.equal(await stdoutOf(user, job), lines.join(''));
    const timed = await submit({ Executable: 'date +%s' });
    const { submissionTime } = await jobIs(timed, 'SUCCESSFUL');
    const lateMs = Date.parse(submissionTime) - 1_000 * Number(await stdoutOf(user, timed));
    // else its clock would be behind by as much
    assert.ok(lateMs < 2_000 && stoodMs > 3_000, `${lateMs} ms late after ${stoodMs} ms`);
  });

  it('put back to a snapshot: jobs of then go on, those begun since FAILED, what has ended stays', async () => {
    const id = one.split('/').at(-1)!;
    const until = (file: string, meanwhile: string) =>
      `n=0; until [ -e /tmp/${file} ]; do n=$((n+1)); ${meanwhile}; sleep 0.1; done; echo over`;
    const long = await submit({ Executable: until('go', ':') });
    const brief = await submit({ Executable: until('brief', 'echo $n > /tmp/beat') });
    for (const job of [long, brief]) await jobIs(job, 'RUNNING');
    const snapshot = await vsite('site', 'snapshot', 'take', id, 'before');
    await jobIs(await submit({ Executable: 'touch /tmp/brief' }), 'SUCCESSFUL');
    await jobIs(brief, 'SUCCESSFUL');
    const since = await submit({ Executable: 'sleep 600' });
    await jobIs(since, 'RUNNING');
    await vsite('site', 'snapshot', 'revert', id, snapshot);
    const { vm } = await readSite(one);
    assert.deepEqual([vm.state, vm.generation, vm.undertaking], ['READY', 2, undefined]);
    assert.match(
      (await jobIs(since, 'FAILED')).statusMessage,
      /put back to the snapshot "before" of/,
    );
    assert.equal((await jobIs(brief, 'SUCCESSFUL')).status, 'SUCCESSFUL');
    const rounds = 'for i in 1 2 3 4 5 6 7 8 9 10; do a=$(cat /tmp/beat); sleep 0.5;';
    const look = `ls /tmp; ${rounds} [ $a = $(cat /tmp/beat) ] && break; done; [ $i -lt 10 ] && echo ended; touch /tmp/go`;
    const looked = await submit({ Executable: look });
    await jobIs(looked, 'SUCCESSFUL');
    const words = (await stdoutOf(user, looked)).trim().split(/\s+/);
    assert.ok(!words.includes('brief'), 'what was done since is undone');
    assert.equal(words.at(-1), 'ended', 'what is over runs no more');
    await jobIs(long, 'SUCCESSFUL');
    assert.equal(await stdoutOf(user, long), 'over\n');
  });

  it('QEMU killed, and its owner wants it restored: as of the last snapshot, with the jobs of then', async () => {
    const id = one.split('/').at(-1)!;
    await vsite('site', 'recovery', id, 'restore');
    const job = await submit({ Executable: 'sleep 600' });
    await jobIs(job, 'RUNNING');
    const last = await vsite('site', 'snapshot', 'take', id);
    const since = await submit({ Executable: 'sleep 600', Restartable: true });
    await jobIs(since, 'RUNNING');
    process.kill(qemuOf(one), 'SIGKILL');
    await jobIs(since, 'FAILED');
    const site = await becomes(one, 'READY', /./, 20_000);
    assert.equal(site.vm.generation, 3);
    assert.equal((await jobIs(job, 'RUNNING')).status, 'RUNNING');
    await user.json('POST', `${job}/actions/abort`, {});
    const kept = JSON.parse(await vsite('--json', 'site', 'snapshot', 'list', id)) as {
      id: string;
    }[];
    assert.equal(kept.at(-1)?.id, last);
    await vsite('site', 'snapshot', 'delete', id, ...kept.map((each) => each.id));
    await eventually(
      'their files are gone',
      async () => (await readdir(join(grid.layout.state, 'vms', id, 'snapshots'))).length === 0,
    );
  });

  it('QEMU killed, and its owner wants another: started again, with the jobs that may be', async () => {
    const { body } = await user.json('PUT', one, { recovery: 'restart' });
    assert.deepEqual(body, { recovery: 'OK' });
    const single = await submit({ Executable: 'sleep 600' });
    const again = await submit({ Executable: 'sleep 600', Restartable: true });
    await jobIs(single, 'RUNNING');
    await jobIs(again, 'RUNNING');
    process.kill(qemuOf(one), 'SIGKILL');
    assert.match((await jobIs(single, 'FAILED')).statusMessage, /lost: .*ended unexpectedly/);
    const site = await becomes(one, 'READY', /./, 20_000);
    assert.equal(site.vm.generation, 4);
    await jobIs(again, 'RUNNING');
    await user.json('POST', `${again}/actions/abort`, {});
  });

  it('QEMU of one hangs, the guest of the other: told apart, each within its time', async () => {
    await becomes(other, 'READY', /./, 60_000);
    const pid = qemuOf(one);
    virsh('inject-nmi', domainOf(other));
    process.kill(pid, 'SIGSTOP');
    try {
      const [, guest] = await Promise.all([
        becomes(
          one,
          /DEGRADED|UNREACHABLE/,
          /process does not answer the hypervisor: it hangs/,
          10_000,
        ),
        becomes(other, 'UNREACHABLE', /agent does not answer; the machine runs.*hangs/, 20_000),
      ]);
      assert.equal(guest.resourceStatus, 'ERROR');
      assert.deepEqual(saidOf(guest).slice(0, 2), ['hypervisor running', 'agent down']);
      const machine = await becomes(one, 'UNREACHABLE', /not answer; .*process.*hangs/, 10_000);
      assert.deepEqual(saidOf(machine).slice(0, 2), ['hypervisor hung', 'agent down']);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await becomes(one, 'READY', /./, 5_000);
  });

  const openTables = () =>
    openDatabase({ url: `sqlite:${join(grid.layout.state, 'targetsystem.sqlite')}`, log });

  it('a domain of a target system that was removed goes; those of other installations stay', async () => {
    const text = virsh('dumpxml', '--inactive', domainOf(other));
    await user.json('DELETE', other);
    await eventually('it is gone', async () => (await grid.domains('qemu')).length === 1);
    const stranger = text
      .replaceAll(domainOf(other).slice(6), '00000000-1111-4222-8333-444444444444')
      .replace(/installation="[^"]*"/, 'installation="00000000-0000-4000-8000-000000000000"')
      .replace(/installation='[^']*'/, "installation='00000000-0000-4000-8000-000000000000'");
    for (const xml of [stranger, text]) {
      const file = join(grid.layout.state, 'domain.xml');
      writeFileSync(file, xml);
      virsh('define', file);
    }
    const left = [domainOf(one), 'vsite-00000000-1111-4222-8333-444444444444'].sort();
    await eventually('the leftover is gone', async () => {
      const domains = await grid.domains('qemu');
      for (const name of left) assert.ok(domains.includes(name), `${name} is gone`);
      return !domains.includes(domainOf(other));
    });
    virsh('undefine', left[0]!);
  });

  it('another server takes the database and loses it: machines run on, are found again, know their new master', async () => {
    const epoch = () => Number(/epoch=["'](\d+)/.exec(virsh('dumpxml', domainOf(one)))![1]);
    const [machine, before] = [qemuOf(one), epoch()];
    {
      await using database = await openTables();
      await using lease = await Lease.take({ database, name: 'xnjs', clock: systemClock, log });
      assert.ok(lease.epoch > before);
      await eventually('the older server answers no more', () =>
        user.json('GET', one).then(
          () => false,
          () => true,
        ),
      );
      await lease.require();
      await database.sequelize.query('DELETE FROM target_systems');
    }
    assert.equal(qemuOf(one), machine);
    await grid.killServer();
    await grid.startServer();
    const found = await eventually('it is there', async () => {
      const { status, body } = await user.json('GET', one).catch(() => ({ status: 404, body: {} }));
      return status === 200 && Site.parse(body).vm.state === 'READY' && Site.parse(body);
    });
    assert.equal(found.image.name, 'vsite-demo');
    assert.equal(qemuOf(one), machine);
    await eventually('it is marked', () => Promise.resolve(epoch() > before + 1));
  });
});
