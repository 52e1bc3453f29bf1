import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { z } from 'zod';
import { buildDemoVm } from '#cli/image/build.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { createTargetSystem, publish, waitUntilReady } from '#cli/quickstart/main-job.js';
import type { HttpClient } from '#kernel/http/client.js';
import { silentLog } from '#kernel/log.js';
import { Site } from '#targetsystem/rest/answers.js';
import { eventually, Grid, noMachines } from '../grid/grid.js';
import { findDescendant } from '../kernel/libvirt/daemon.js';

type Site = z.output<typeof Site>;
const signal = AbortSignal.timeout(300_000);

describe('faults of machines and hypervisors', { skip: noMachines, timeout: 240_000 }, () => {
  let grid: Grid;
  let user: HttpClient;
  /** Paths of two target systems, whose kernels stop for good when they are sent an NMI. */
  let [one, other] = ['', ''];
  before(async () => {
    grid = await Grid.start();
    const options = { cacheDir: join(defaultCacheDirectory(), 'images'), log: silentLog };
    const image = await buildDemoVm(options);
    const { metadata } = image;
    const boot = { ...metadata.boot, commandLine: 'unknown_nmi_panic panic=0' };
    await publish(await grid.creator(), { ...image, metadata: { ...metadata, boot } });
    user = await grid.user();
    const make = () => createTargetSystem(user, 'vsite-demo', {});
    [one, other] = await Promise.all([make(), make()]);
    for (const path of [one, other]) await waitUntilReady(user, path, signal, () => undefined);
  });
  after(async () => grid[Symbol.asyncDispose]());

  const readSite = async (path: string) => Site.parse((await user.json('GET', path)).body);
  const domainOf = (path: string) => `vsite-${path.split('/').at(-1)!}`;
  const virsh = (...args: string[]) =>
    execFileSync('virsh', ['-q', '-c', grid.libvirtd.uri('qemu'), ...args], { encoding: 'utf8' });
  const qemuOf = (path: string) =>
    Number(execFileSync('pgrep', ['-o', '-f', `guest=${domainOf(path)}`], { encoding: 'utf8' }));
  const libvirtd = () => findDescendant(grid.libvirtd.pid!, 'libvirtd');
  const saidOf = ({ vm }: Site) => vm.views!.map(({ source, says }) => `${source} ${says}`);

  /** Until it is in the state, for that reason, within the stated time. It must never be FAILED. */
  async function becomes(path: string, state: string, fact: RegExp, withinMs: number) {
    const beganMs = performance.now();
    let last = '';
    const site = await eventually(
      `${state} ${String(fact)}`,
      async () => {
        const found = await readSite(path);
        last = `${found.vm.state}: ${found.vm.evidence.fact}`;
        assert.notEqual(found.vm.state, 'FAILED', last);
        return found.vm.state === state && fact.test(found.vm.evidence.fact) && found;
      },
      withinMs * 2,
    ).catch((error: unknown) => {
      throw new Error(`it is ${last}`, { cause: error });
    });
    const ms = Math.round(performance.now() - beganMs);
    assert.ok(ms <= withinMs, `${state} after ${ms} ms`);
    return site;
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
    await eventually('it answers', async () => virsh('list', '--name').includes(domainOf(one)));
    virsh('suspend', domainOf(one));
    await becomes(one, 'PAUSED', /by order/, 4_000);
    virsh('resume', domainOf(one));
    await becomes(one, 'READY', /./, 4_000);
    assert.equal(qemuOf(one), machine);
  });

  it('QEMU of one hangs, the guest of the other: told apart, each within its time', async () => {
    const pid = qemuOf(one);
    virsh('inject-nmi', domainOf(other));
    process.kill(pid, 'SIGSTOP');
    try {
      const [, guest] = await Promise.all([
        becomes(one, 'DEGRADED', /process does not answer the hypervisor: it hangs/, 10_000),
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
});
