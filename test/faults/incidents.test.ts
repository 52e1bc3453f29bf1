import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { LibvirtHypervisor } from '#xnjs/vm/libvirt-hypervisor.js';
import type { VmState } from '#xnjs/vm/state.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import type { TargetSystems } from '#xnjs/vm/target-systems.js';
import { mountTinyDisk } from '../kernel/persistence/tiny-disk.js';
import { aDaemon, withoutLibvirtd } from '../kernel/libvirt/daemon.js';
import { openTables } from '../xnjs/persistence/databases.js';
import { until } from '../xnjs/job/rig.js';
import { bootDisk, watchdogSlot, type Incident } from './boot-sectors.js';
import { startAgents, startMachines } from './machine-rig.js';
import { Proxy } from './proxy.js';

const skip = withoutLibvirtd || (process.getuid?.() === 0 ? false : 'needs root, to mount');

/** As an operator would have it: these machines have a watchdog. */
class WithWatchdogs extends LibvirtHypervisor {
  override start(...[driver, id, xml]: Parameters<LibvirtHypervisor['start']>) {
    const place = `<address type="pci" domain="0" bus="0" slot="${watchdogSlot}" function="0"/>`;
    const watchdog = `<watchdog model="i6300esb" action="pause">${place}</watchdog>`;
    return super.start(driver, id, xml.replace('</devices>', `${watchdog}</devices>`));
  }
}

describe('what happens in and to machines', { skip, timeout: 240_000 }, () => {
  const scope = new Scope();
  let daemon: Awaited<ReturnType<typeof aDaemon>>;
  let systems: TargetSystems;
  let state: string;
  let links: string;
  /** Of 24 MiB: the files of all machines. */
  let small: string;
  const proxies = new Map<string, Proxy>();
  /** All that was told of them, in its order. */
  const told: { readonly id: string; readonly state: VmState; readonly fact: string }[] = [];
  before(async () => {
    const disk = await mountTinyDisk(scope, '24m');
    if ('skip' in disk) throw new Error(disk.skip);
    small = disk.path;
    daemon = scope.use(await aDaemon());
    state = join(daemon.stateDir, 's');
    links = join(state, 'links');
    mkdirSync(links, { recursive: true });
    await startAgents(scope, join(state, 'agents.sock'));
    const images = [
      ...[
        'powers off',
        'nothing',
        'panics',
        'arms its watchdog',
        'fills its disk',
        'floods its console',
      ],
    ] as const satisfies readonly Incident[];
    const disks = new Map<string, string>(
      images.map((each, at) => [each, bootDisk(join(state, `${at}.qcow2`), each)]),
    );
    systems = await startMachines(scope, {
      database: await openTables(scope, `sqlite:${join(state, 'db.sqlite')}`),
      uri: daemon.options('qemu').uri,
      ...{ directory: small, compareMs: 1_000 },
      part: (image) => disks.get(image)!,
      socketOf: (id) => join(links, id.slice(0, 8)),
      hypervisor: (options) => new WithWatchdogs(options),
      stores: ({ targets, spares }) => ({
        spares,
        targets: {
          ...targets,
          save: async (system, ...rest) => {
            await targets.save(system, ...rest);
            told.push({ id: system.id, state: system.state, fact: system.evidence.fact });
          },
        },
      }),
    });
  });
  after(() => scope.close());

  const virsh = (...args: string[]) =>
    execFileSync('virsh', ['-q', '-c', daemon.options('qemu').uri, ...args], { encoding: 'utf8' });
  const inject = (id: string) => virsh('inject-nmi', `vsite-${id}`);

  /** A machine that waits to be told. */
  async function make(image: Incident): Promise<string> {
    const wish = { ownerDn: 'CN=User', image, parameters: {}, tags: [] };
    const { id } = await systems.create(wish);
    proxies.set(
      id,
      scope.use(
        await Proxy.open(join(links, id.slice(0, 8)), { path: join(state, 'agents.sock') }),
      ),
    );
    await becomes(id, 'READY', /./, 30_000);
    await until('it runs', async () => (await systems.consoles.tail(id)).includes('R'), 30_000);
    return id;
  }

  const said = ({ state, evidence }: TargetSystem) => `${state}: ${evidence.fact}`;
  /** Within the stated time, or twice that on a busy host. */
  async function becomes(id: string, state: VmState, fact: RegExp, withinMs: number) {
    const isThere = () =>
      systems.get(id).state === state && fact.test(systems.get(id).evidence.fact);
    await until(`${state} ${String(fact)}`, isThere, 2 * withinMs).catch((cause: unknown) => {
      throw new Error(`it is ${said(systems.get(id))}`, { cause });
    });
  }

  it('a guest whose kernel panics: FAILED within 2 s, with the reason', async () => {
    const id = await make('panics');
    inject(id);
    await becomes(id, 'FAILED', /crashed/, 2_000);
    await systems.destroy(id);
  });

  it('a machine that powers itself off: its disk can be kept, put back, and saved as image', async () => {
    const id = await make('powers off');
    const overlay = join(small, 'vms', id, 'overlay.qcow2');
    const io = (file: string, ...args: string[]): string =>
      execFileSync('qemu-io', [...args, file], { encoding: 'utf8' });
    await assert.rejects(systems.snapshots.revert(id, 'none'), { code: 'NOT_FOUND' });
    inject(id);
    await becomes(id, 'FAILED', /^the machine has shut down/, 2_000);
    io(overlay, '-c', 'write -P 0x5a 1M 512'); // as the guest could have before
    const isSettled = () => systems.get(id).undertaking === undefined;
    const { id: snapshot } = await systems.snapshots.take(id, 'off');
    await until('it is taken', isSettled);
    const taken = systems.snapshots.get(id, snapshot);
    assert.deepEqual([taken.state, taken.isDiskOnly], ['READY', true]);
    assert.equal(said(systems.get(id)), 'FAILED: the machine has shut down');
    io(overlay, '-c', 'write -P 0x77 1M 512');

    const file = join(state, 'saved.qcow2');
    const images = systems.savedImages({
      images: { find: () => Promise.resolve({ metadata: systems.get(id).image.metadata }) },
      publisher: {
        findBy: () => Promise.resolve(undefined),
        create: () => Promise.resolve('the image'),
        publish: async ({ disk }: { disk: { source: () => Readable } }) => {
          writeFileSync(file, await buffer(disk.source()));
        },
      },
    } as unknown as Parameters<TargetSystems['savedImages']>[0]); // a fake repository
    const image = { version: '2', visibility: 'private', snapshot } as const;
    const saving = { taskId: 'task', siteId: id, image, callerDn: 'CN=User' };
    const tell = () => Promise.resolve();
    assert.equal(await images.save(saving, tell, AbortSignal.timeout(30_000)), 'the image');
    assert.match(io(file, '-r', '-c', 'read -P 0x5a 1M 512'), /^read 512/);
    await images.check(id, { version: '3', visibility: 'private' }, 'CN=User');

    await systems.snapshots.revert(id, snapshot);
    await until('its jobs are to be told', () => systems.get(id).reverted?.step === 'tell');
    await systems.settled(id, { reverted: systems.get(id).reverted! });
    await becomes(id, 'READY', /./, 30_000);
    const { generation, start } = systems.get(id);
    assert.deepEqual([generation, start?.tier], [2, 'cold']);
    assert.match(io(overlay, '-U', '-r', '-c', 'read -P 0x5a 1M 512'), /^read 512/);
    await systems.destroy(id);
  });

  it('a watchdog that runs out: DEGRADED within 1 s, with the reason; READY when the machine goes on', async () => {
    const id = await make('arms its watchdog');
    inject(id); // it runs out after two seconds
    await becomes(id, 'DEGRADED', /halted: watchdog/, 3_000);
    virsh('resume', `vsite-${id}`);
    await becomes(id, 'READY', /./, 1_000);
    await systems.destroy(id);
  });

  it('a guest that writes to its console for ever: 8 MiB of it are kept at most, and its end can be read', async () => {
    const id = await make('floods its console');
    const file = join(small, 'vms', id, 'console.log');
    appendFileSync(file, Buffer.alloc(8 * 1_048_576, 'o')); // as if it had for long
    await until('it is cut', () => statSync(file).size < 1_048_576);
    assert.match(await systems.consoles.tail(id), /^o+$/);
    inject(id);
    await until('it goes on where it was cut', () => statSync(file).size > 4_096);
    assert.match(await systems.consoles.tail(id), /^x+$/);
    assert.ok(statSync(file).size < 1_048_576, 'and has no hole');
    const [...kept] = readFileSync(`${file}.0`).subarray(-16);
    assert.deepEqual(kept, Array(16).fill('o'.charCodeAt(0)));
    await systems.destroy(id);
  });

  const filler = () => join(small, 'filler');
  /** Nothing more fits. */
  const fill = () => {
    try {
      writeFileSync(filler(), Buffer.alloc(64 * 1_048_576));
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
      return;
    }
    assert.fail('it is not full');
  };

  it('no room for what a guest writes: DEGRADED within 1 s, with the reason; READY when there is some', async () => {
    const id = await make('fills its disk');
    inject(id);
    await becomes(id, 'DEGRADED', /halted: I\/O error/, 20_000);
    execFileSync('mount', ['-o', 'remount,size=128m', small]);
    virsh('resume', `vsite-${id}`);
    await becomes(id, 'READY', /./, 1_000);
    await systems.destroy(id);
    await until('it is gone', () => systems.list().length === 0);
    execFileSync('mount', ['-o', 'remount,size=24m', small]);
  });

  it('no room for a new machine: FAILED, with the reason, and nothing of it runs; the next one is started', async () => {
    fill();
    const wish = { ownerDn: 'CN=User', image: 'nothing', parameters: {}, tags: [] };
    const { id } = await systems.create(wish);
    await becomes(id, 'FAILED', /no space left/, 5_000);
    assert.doesNotMatch(virsh('list', '--all', '--name'), RegExp(id));
    rmSync(filler());
    await systems.destroy(id);
    await systems.destroy(await make('nothing'));
  });

  it('no room to park a machine: it runs on, with the reason; it is parked when there is, and comes back on a full disk', async () => {
    const id = await make('nothing');
    const inside = ['-t', String(await daemon.processId()), '-m'];
    const saves = '/var/lib/libvirt/qemu/save';
    execFileSync('nsenter', [...inside, 'mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', saves]);
    await systems.parking.freeze(id);
    await until('it is refused', () =>
      told.some((one) => one.id === id && /^could not be parked: .*(space|write)/.test(one.fact)),
    );
    await becomes(id, 'READY', /./, 10_000);
    assert.match(virsh('domstate', `vsite-${id}`), /running/);
    execFileSync('nsenter', [...inside, 'umount', saves]);
    await systems.parking.freeze(id);
    await becomes(id, 'SUSPENDED', /./, 10_000);
    fill();
    await systems.parking.thaw(id);
    await becomes(id, 'READY', /./, 10_000);
    rmSync(filler());
    await systems.destroy(id);
  });

  it('its limits changed while a machine is parked: it has them when it is back, and not before', async () => {
    const id = await make('nothing');
    await systems.parking.freeze(id);
    await becomes(id, 'SUSPENDED', /./, 10_000);
    const diskIops = { field: 'parameters.diskIops', value: 50 };
    assert.equal(await systems.changeParameters(id, { diskIops }), false);
    assert.deepEqual(systems.get(id).unapplied, ['diskIops']);
    await systems.parking.thaw(id);
    await becomes(id, 'READY', /./, 10_000);
    await until('it has been told', () => systems.get(id).unapplied === undefined);
    assert.match(virsh('dumpxml', `vsite-${id}`), /<total_iops_sec>50</);
    await systems.destroy(id);
  });

  it('a link to the agent that is cut, or silent one way or both: UNREACHABLE within 20 s, READY when it is healed', async () => {
    const faults = [
      ['cut', (proxy) => proxy.cut({ forGood: true })],
      ['silent both ways', (proxy) => proxy.stall()],
      ['silent to the agent', (proxy) => proxy.stall(['to server'])],
      ['silent from the agent', (proxy) => proxy.stall(['to client'])],
    ] as const satisfies [string, (proxy: Proxy) => void][];
    const ids: string[] = [];
    while (ids.length < faults.length) ids.push(await make('nothing'));
    faults.forEach(([, strike], at) => strike(proxies.get(ids[at]!)!));
    await Promise.all(
      ids.map((id) =>
        becomes(id, 'UNREACHABLE', /agent does not answer; the machine runs/, 20_000),
      ),
    );
    for (const id of ids) proxies.get(id)!.heal();
    // one that was being called when it fell silent is called again after 10 s
    await Promise.all(ids.map((id) => becomes(id, 'READY', /./, 12_000)));
    for (const id of ids) await systems.destroy(id);
  });
});
