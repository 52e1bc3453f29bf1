import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog } from '#kernel/log.js';
import { readCapabilities, whyUnable } from '#xnjs/vm/hosts/capabilities.js';
import { domainXml } from '#xnjs/vm/domain-xml.js';
import { LibvirtHypervisor } from '#xnjs/vm/libvirt-hypervisor.js';
import { lookFlags } from '#xnjs/vm/libvirt-look.js';
import { aDaemon, withoutLibvirtd } from '../../kernel/libvirt/daemon.js';
import { until } from '../job/rig.js';
import { aTargetSystem, anImageMetadata } from './samples.js';

const installationId = '11111111-2222-4333-8444-555555555555';
const ids = ['a', 'b', 'c'].map((letter) => `${letter}${aTargetSystem().id.slice(1)}`);
const [first, second, third] = ids as [string, string, string];

describe('a look at machines that may hang', { skip: withoutLibvirtd, timeout: 60_000 }, () => {
  let daemon: Awaited<ReturnType<typeof aDaemon>>;
  let qemu: LibvirtClient;
  let probe: LibvirtClient;
  let hypervisor: LibvirtHypervisor;
  before(async () => {
    daemon = await aDaemon();
    qemu = await daemon.connect('qemu');
    probe = await daemon.connect('qemu', { events: [] });
    hypervisor = new LibvirtHypervisor({
      ...{ clients: { qemu }, probes: { qemu: probe }, installationId },
      ...{ clock: systemClock, log: silentLog },
    });
    for (const id of ids) await hypervisor.start('qemu', id, domainXml(system(id), paths(id), 'x'));
  });
  after(async () => {
    signal('CONT', ...ids);
    await probe.close();
    await qemu.close();
    await daemon[Symbol.asyncDispose]();
  });

  const system = (id: string) =>
    aTargetSystem({
      id,
      image: { id: 'i', parts: {}, metadata: anImageMetadata({ format: 'qcow2' }) },
      parameters: { cpus: 1, memoryMiB: 64 },
    });
  const paths = (id: string) => {
    const [raw, disk] = [join(daemon.stateDir, `${id}.raw`), join(daemon.stateDir, `${id}.qcow2`)];
    const sector = Buffer.alloc(1_048_576);
    sector.set([0xfa, 0xf4, 0xeb, 0xfd]); // interrupts off, halt
    sector.set([0x55, 0xaa], 510);
    writeFileSync(raw, sector);
    execFileSync('qemu-img', ['convert', '-O', 'qcow2', raw, disk]);
    const agentSocket = join(daemon.stateDir, `${id[0]!}.sock`);
    return { console: join(daemon.stateDir, `${id}.log`), agentSocket, disk };
  };
  const signal = (name: 'STOP' | 'CONT', ...which: string[]) =>
    which.forEach((id) => execFileSync('pkill', [`-${name}`, '-f', `guest=vsite-${id}`]));
  const look = async () => {
    const begun = performance.now();
    const found = new Map((await hypervisor.look('qemu')).map((each) => [each.id, each]));
    return { ms: performance.now() - begun, of: (id: string) => found.get(id)! };
  };

  it('tells what machines its host can run, and why not others', async () => {
    const found = await readCapabilities(qemu, 'qemu');
    const { machines = [], maxCpus = 0, display } = found['x86_64'] ?? {};
    assert.ok(machines.includes('q35') && maxCpus >= 8 && display);
    const needs = { architecture: 'x86_64', cpus: maxCpus, display: true };
    assert.equal(whyUnable('qemu', found, needs), undefined);
    const more = whyUnable('qemu', found, { ...needs, cpus: maxCpus + 1 });
    assert.match(more ?? '', /^cores: \d+ asked for, a machine of qemu has \d+ there at most$/);
    const other = whyUnable('qemu', found, { ...needs, architecture: 'aarch64' });
    assert.match(other ?? '', /^architecture: qemu has no (q35 for )?aarch64 there/);
  });

  it('tells what runs, what is paused and what is halted for good', async () => {
    const { dom } = await qemu.call('domain_lookup_by_uuid', { uuid: first });
    await qemu.call('domain_suspend', { dom });
    const { of } = await look();
    assert.deepEqual([of(first).state, of(second).state], ['paused', 'running']);
    assert.deepEqual([of(first).answers, of(second).answers], [true, true]);
    await qemu.call('domain_resume', { dom });
    const later = await look();
    assert.equal(later.of(first).state, 'running');
    assert.equal(later.of(second).cpuMs, of(second).cpuMs, 'its processor does nothing');
  });

  it('finds the processes that hang among those that do not, one and then another, and then all at once', async () => {
    signal('STOP', first);
    const doms = [{ name: `vsite-${first}`, uuid: first, id: -1 }];
    const args = { doms, stats: 1, flags: lookFlags };
    // what is told of those that are not asked holds up nobody
    const known = await probe.call('connect_get_all_domain_stats', args, { timeoutMs: 1_000 });
    assert.ok(known.retStats[0]?.params.some(({ field }) => field === 'state.state'));
    const [dom] = doms;
    const info = await probe.call('domain_get_info', { dom: dom! }, { timeoutMs: 1_000 });
    assert.ok(info.cpuTime > 0n);
    const one = await look();
    assert.deepEqual(
      ids.map((id) => one.of(id).answers === true),
      [false, true, true],
    );
    assert.ok(one.ms < 10_000, `it waits for the one that hangs: ${one.ms} ms`);
    const again = await look();
    assert.deepEqual(
      ids.map((id) => again.of(id).answers === true),
      [false, true, true],
    );
    assert.ok(again.ms < 10_000, `it hangs on: ${again.ms} ms`);
    signal('STOP', second, third);
    const all = await look();
    assert.deepEqual(
      ids.map((id) => all.of(id).answers === true),
      [false, false, false],
    );
    assert.equal(
      (await hypervisor.find('qemu', first))?.state,
      'running',
      'other calls are not held up',
    );
    signal('CONT', ...ids);
    // calls that were stuck in them end one after another
    await until('all answer again', async () => {
      const well = await look();
      return ids.every((id) => well.of(id).answers === true);
    });
  });
});
