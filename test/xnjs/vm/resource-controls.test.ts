import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { asGridError } from '#kernel/errors.js';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog } from '#kernel/log.js';
import { containerIds, domainXml } from '#xnjs/vm/domain-xml.js';
import { LibvirtHypervisor } from '#xnjs/vm/libvirt-hypervisor.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { aDaemon, withoutContainers, withoutLibvirtd } from '../../kernel/libvirt/daemon.js';
import { until } from '../job/rig.js';
import { aTargetSystem, anImageMetadata } from './samples.js';

/** Cores that a process, or a thread of it, may run on. */
function allowedOf(process: string): number[] {
  const status = readFileSync(`/proc/${process}/status`, 'utf8');
  const [, list = ''] = /^Cpus_allowed_list:\s*(\S+)/m.exec(status) ?? [];
  return list.split(',').flatMap((range) => {
    const [from = 0, to = from] = range.split('-').map(Number);
    return Array.from({ length: to - from + 1 }, (_, at) => from + at);
  });
}

const installationId = '11111111-2222-4333-8444-555555555555';
const unlimited = 9_007_199_254_740_991n;

describe('resource controls', { skip: withoutLibvirtd, timeout: 120_000 }, () => {
  let daemon: Awaited<ReturnType<typeof aDaemon>>;
  let clients: { qemu: LibvirtClient; lxc?: LibvirtClient };
  let hypervisor: LibvirtHypervisor;
  before(async () => {
    daemon = await aDaemon();
    const qemu = await daemon.connect('qemu');
    clients = { qemu, ...(!withoutContainers && { lxc: await daemon.connect('lxc') }) };
    hypervisor = new LibvirtHypervisor({
      ...{ clients, installationId, clock: systemClock, log: silentLog },
    });
  });
  after(async () => {
    for (const client of Object.values(clients)) await client.close();
    await daemon[Symbol.asyncDispose]();
  });

  const domainOf = async ({ driver, id }: TargetSystem) => {
    const client = clients[driver as 'qemu' | 'lxc']!;
    return { client, dom: (await client.call('domain_lookup_by_uuid', { uuid: id })).dom };
  };
  const xmlOf = async (system: TargetSystem): Promise<string> => {
    const { client, dom } = await domainOf(system);
    const { xml } = await client.call('domain_get_xml_desc', { dom, flags: 0 });
    return xml.replaceAll(/\s+/g, ' ');
  };
  /** Of a core, in percent, over some time in which nothing else is waited for. */
  const load = async (system: TargetSystem): Promise<number> => {
    const { client, dom } = await domainOf(system);
    const used = async () => (await client.call('domain_get_info', { dom })).cpuTime;
    const [startMs, from] = [performance.now(), await used()];
    await sleep(1_000); // what is measured is a rate
    return Number((await used()) - from) / 1e4 / (performance.now() - startMs);
  };

  it('give a machine cores of its own, and leave the others to all that run beside it', async () => {
    const [own = 0, other = own] = allowedOf('self');
    const made = [
      aTargetSystem({ id: randomUUID(), parameters: { cpus: 1, memoryMiB: 32 }, cores: [own] }),
      aTargetSystem({ id: randomUUID(), parameters: { cpus: 1, memoryMiB: 32 } }),
    ];
    const paths = (id: string) => ({
      console: join(daemon.stateDir, `${id}.log`),
      agentSocket: join(daemon.stateDir, id.slice(0, 8)),
    });
    for (const system of made) {
      const placed = { ...system, sharedCores: String(other) };
      await hypervisor.start(
        'qemu',
        system.id,
        domainXml(placed, paths(system.id), installationId),
      );
    }
    const threads = ({ id }: TargetSystem): Map<string, number[]> => {
      const pid = execFileSync('pgrep', ['-o', '-f', `guest=vsite-${id}`], { encoding: 'utf8' });
      const tasks = `/proc/${pid.trim()}/task`;
      return new Map(
        readdirSync(tasks).map((task) => {
          const name = readFileSync(join(tasks, task, 'comm'), 'utf8').trim();
          return [name, allowedOf(`${pid.trim()}/task/${task}`)];
        }),
      );
    };
    const [pinned, sharing] = made.map(threads);
    assert.deepEqual(pinned!.get('CPU 0/TCG'), [own]);
    assert.deepEqual(pinned!.get('qemu-system-x86'), [other], 'what QEMU does beside its guest');
    assert.deepEqual([...new Set([...sharing!.values()].flat())], [other]);
    for (const { id } of made) await hypervisor.remove('qemu', id);
  });

  describe('of a machine', () => {
    let system: TargetSystem;
    before(async () => {
      system = aTargetSystem({
        image: { id: 'i', parts: {}, metadata: anImageMetadata({ format: 'qcow2' }) },
        parameters: { cpus: 1, memoryMiB: 64, memoryMaxMiB: 96, cpuQuotaPercent: 90 },
      });
      const [raw, disk] = [join(daemon.stateDir, 'raw'), join(daemon.stateDir, 'disk.qcow2')];
      const sector = Buffer.alloc(1_048_576);
      sector.set([0xeb, 0xfe]); // a jump to itself
      sector.set([0x55, 0xaa], 510);
      writeFileSync(raw, sector);
      execFileSync('qemu-img', ['convert', '-O', 'qcow2', raw, disk]);
      const paths = {
        console: join(daemon.stateDir, 'console.log'),
        agentSocket: join(daemon.stateDir, 'agent.sock'),
        disk,
      };
      await hypervisor.start('qemu', system.id, domainXml(system, paths, installationId));
    });
    after(() => hypervisor.remove('qemu', system.id));

    const change = async (
      parameters: Partial<TargetSystem['parameters']>,
      names: Parameters<typeof hypervisor.setControls>[1],
    ) => {
      system = { ...system, parameters: { ...system.parameters, ...parameters } };
      assert.equal(await hypervisor.setControls(system, names), true);
    };

    it('are those it was made with', async () => {
      const xml = await xmlOf(system);
      assert.match(xml, /<global_period>100000<\/global_period> <global_quota>90000</);
      assert.match(xml, /<memory unit='KiB'>98304</);
    });

    it('change while it runs', async () => {
      await change({ cpuQuotaPercent: undefined }, ['cpuQuotaPercent']);
      await until('it uses what it can get', async () => (await load(system)) > 4);
      await change({ cpuQuotaPercent: 1, cpuShares: 50 }, ['cpuQuotaPercent', 'cpuShares']);
      const bound = await load(system);
      assert.ok(bound < 3, `${bound} % of a core with a quota of 1 %`);
      assert.match(await xmlOf(system), /<shares>50</);
      await change({ cpuQuotaPercent: undefined }, ['cpuQuotaPercent']);
    });

    it('leave it measurable, with all others in one call', async () => {
      const [first] = await hypervisor.usage('qemu', [system.id]);
      assert.equal(first!.id, system.id);
      assert.ok(first!.counters.cpuMs > 0);
      assert.ok(first!.counters.diskReadBytes >= 512, 'its firmware has read a sector');
      assert.ok(first!.residentMiB! > 10);
      assert.ok(first!.givenMiB! > 0);
      await until('it has used more', async () => {
        const [next] = await hypervisor.usage('qemu', [system.id]);
        assert.equal(next!.run, first!.run);
        return next!.counters.cpuMs > first!.counters.cpuMs;
      });
    });

    it('bound its disk, each without the others', async () => {
      await change({ diskReadBytesPerSecond: 4_000_000 }, ['diskReadBytesPerSecond']);
      await change({ diskIops: 50 }, ['diskIops']);
      const both = /<read_bytes_sec>4000000<.*<total_iops_sec>50</;
      assert.match(await xmlOf(system), both);
      await change({ diskReadBytesPerSecond: undefined }, ['diskReadBytesPerSecond']);
      const xml = await xmlOf(system);
      assert.doesNotMatch(xml, /read_bytes_sec/);
      assert.match(xml, /<total_iops_sec>50</);
    });

    it('bound its memory on the host', async () => {
      const { client, dom } = await domainOf(system);
      const limit = async () => {
        const { xml } = await client.call('domain_get_xml_desc', { dom, flags: 0 });
        return /<hard_limit unit='KiB'>(\d+)</.exec(xml)?.[1];
      };
      await change({ memoryHardLimitMiB: 512 }, ['memoryHardLimitMiB']);
      assert.equal(await limit(), String(512 * 1024));
      await change({ memoryHardLimitMiB: undefined }, ['memoryHardLimitMiB']);
      assert.ok([undefined, String(unlimited)].includes(await limit()));
      await change({ memoryMiB: 48 }, ['memoryMiB']);
    });

    it('are refused in the words of the hypervisor', async () => {
      const small = { ...system, parameters: { ...system.parameters, memoryMiB: 4_096 } };
      await assert.rejects(hypervisor.setControls(small, ['memoryMiB']), (error) => {
        assert.equal(asGridError(error)?.code, 'HYPERVISOR_FAILED');
        return String(error).includes('memory');
      });
    });
  });

  describe('of a container', { skip: withoutContainers }, () => {
    let system: TargetSystem;
    before(async () => {
      const root = join(daemon.stateDir, 'root');
      for (const name of ['bin', 'tmp', 'run', 'proc', 'sys', 'dev'])
        mkdirSync(join(root, name), { recursive: true });
      execFileSync('cp', ['/bin/busybox', join(root, 'bin/busybox')]);
      const script = '#!/bin/busybox sh\nwhile :; do :; done\n';
      writeFileSync(join(root, 'init'), script, { mode: 0o755 });
      system = aTargetSystem({
        id: '6c3f0c1e-8d52-4a94-9a50-0f0e3a1f2b3c',
        driver: 'lxc',
        image: { id: 'i', parts: {}, metadata: anImageMetadata({ format: 'rootfs' }) },
        parameters: { cpus: 1, memoryMiB: 64, cpuQuotaPercent: 1 },
      });
      execFileSync('chown', ['-R', String(containerIds.first), root]);
      chmodSync(daemon.stateDir, 0o711);
      const paths = { console: '', agentSocket: '', root };
      await hypervisor.start('lxc', system.id, domainXml(system, paths, installationId));
    });
    after(async () => {
      await hypervisor.remove('lxc', system.id);
      rmSync(join(daemon.stateDir, 'root'), { recursive: true, force: true });
    });

    it('change while it runs', async () => {
      const before = await load(system);
      assert.ok(before < 3, `${before} % of a core with a quota of 1 %`);
      const parameters = { ...system.parameters, cpuQuotaPercent: undefined, memoryMiB: 48 };
      const wider = { ...system, parameters };
      await hypervisor.setControls(wider, ['cpuQuotaPercent', 'memoryMiB']);
      await until('it uses what it can get', async () => (await load(system)) > 4);
      const xml = await xmlOf(system);
      const [usage] = await hypervisor.usage('lxc', [system.id]);
      assert.ok(usage!.run > 0, 'which of its starts it is of');
      assert.ok(usage!.counters.cpuMs > 0 && usage!.residentMiB! < 64);
      assert.match(xml, /<quota>100000</);
      assert.match(xml, /<currentMemory unit='KiB'>49152</);
    });
  });
});
