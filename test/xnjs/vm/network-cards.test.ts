import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { GridError } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import type { NetworkHypervisor, OwnNetwork } from '#xnjs/vm/libvirt-networks.js';
import { MachineNetworks } from '#xnjs/vm/machine-networks.js';
import { HostNetworks } from '#xnjs/vm/host-networks.js';
import { chooseCard, type NetworkCard } from '#xnjs/vm/network-card.js';
import { NetworksConfig } from '#xnjs/vm/network-config.js';
import { whyNoUserNetwork } from '#kernel/libvirt/network-namespace.js';
import { aTargetSystem, anImageMetadata } from './samples.js';

const networks = NetworksConfig.parse({
  user: {},
  nat: { host: '10.178.0.1/29' },
  isolated: { range: '10.179.0.0/27', prefixLength: 29 },
  bridge: { name: 'br0' },
});
const [one, two] = ['CN=One,O=Grid', 'CN=Two,O=Grid'];
type Held = { id: string; ownerDn: string; card: NetworkCard };

/** Cards for these owners, each chosen beside those before it. */
function choose(kind: NetworkCard['kind'], owners: readonly string[], others: Held[] = []): Held[] {
  const all = [...others];
  for (const [at, ownerDn] of owners.entries()) {
    const id = `${at}b3f0c1e-8d52-4a94-9a50-0f0e3a1f2b3c`;
    all.push({ id, ownerDn, card: chooseCard(kind, { id, ownerDn }, networks, all) });
  }
  return all.slice(others.length);
}
const ownersBytes = ({ card }: Held): string => card.mac.slice(0, 11);

describe('the network card of a machine', () => {
  it('has the first address that no other has, and tells its owner from others', () => {
    const [a, b, c] = choose('nat', [one, two, one]) as [Held, Held, Held];
    assert.deepEqual(
      [a, b, c].map(({ card }) => card.address),
      ['10.178.0.2', '10.178.0.3', '10.178.0.4'],
    );
    assert.equal(ownersBytes(a), ownersBytes(c));
    assert.notEqual(ownersBytes(a), ownersBytes(b));
    assert.equal(new Set([a, b, c].map(({ card }) => card.mac)).size, 3);
    const [again] = choose('nat', [two], [a, c]);
    assert.equal(again?.card.address, '10.178.0.3', 'what is free again');
  });

  it('never shares its owner’s bytes, even where two names have the same sum', () => {
    const sum = createHash('sha256').update(one).digest('hex');
    const bytes = sum.slice(0, 6).match(/../g)?.join(':') ?? '';
    const card = { kind: 'nat', mac: `52:${bytes}:00:00`, address: '10.178.0.6' } as const;
    const [mine] = choose('nat', [one], [{ id: 'x', ownerDn: two, card }]) as [Held];
    assert.notEqual(ownersBytes(mine), `52:${bytes}`);
  });

  it('of an isolated network has that to itself', () => {
    const hosts = choose('isolated', [one, one, two]).map(({ card }) => [card.host, card.address]);
    assert.deepEqual(hosts, [
      ['10.179.0.1/29', '10.179.0.2'],
      ['10.179.0.9/29', '10.179.0.10'],
      ['10.179.0.17/29', '10.179.0.18'],
    ]);
  });

  for (const [kind, count, text] of [
    ['nat', 5, /all addresses of 10\.178\.0\.1\/29 are taken/],
    ['isolated', 4, /all networks in 10\.179\.0\.0\/27 are taken/],
  ] as const)
    it(`is refused when all of ${kind} are taken`, () => {
      const full = choose(kind, Array<string>(count).fill(one));
      assert.throws(() => choose(kind, [two], full), { code: 'QUOTA_EXCEEDED', message: text });
    });
});

describe('the configuration of networks', () => {
  for (const [config, path] of [
    [{ nat: { host: '10.178.0.1/30' } }, 'nat.host'],
    [{ nat: { deny: ['10.0.0.0/8', 'everything'] } }, 'nat.deny.1'],
    [{ nat: {}, isolated: { range: '10.178.128.0/17' } }, 'isolated.range'],
    [{ isolated: { range: '10.179.0.0/28', prefixLength: 24 } }, 'isolated.prefixLength'],
    [{ bridge: {} }, 'bridge.name'],
    [{ bridge: { name: 'br0; reboot' } }, 'bridge.name'],
    [{ router: {} }, ''],
  ] as const)
    it(`is refused: ${JSON.stringify(config)}`, () => {
      const { error } = NetworksConfig.safeParse(config);
      assert.deepEqual(
        error?.issues.map((issue) => issue.path.join('.')),
        [path],
      );
    });
});

/** What is there, and what was asked of it. */
class RecordedNetworks implements NetworkHypervisor {
  readonly calls: string[] = [];
  refusal: Error | undefined;
  own: OwnNetwork[] = [];
  foreign: string[] = [];
  bridge: boolean | undefined;
  filter = '';
  ensureNetwork: NetworkHypervisor['ensureNetwork'] = (
    _driver,
    { name, networkXml, filterXml },
  ) => {
    this.filter = filterXml;
    this.calls.push(`ensure ${name}`);
    return this.refusal && networkXml !== undefined
      ? Promise.reject(this.refusal)
      : Promise.resolve();
  };
  ensureHost: NetworkHypervisor['ensureHost'] = (_driver, network, { address }) =>
    this.#note(`host ${address} in ${network}`);
  removeHost: NetworkHypervisor['removeHost'] = (_driver, network, mac) =>
    this.#note(`no host ${mac} in ${network}`);
  removeNetwork: NetworkHypervisor['removeNetwork'] = (_driver, name) =>
    this.#note(`remove ${name}`);
  listNetworks = () => Promise.resolve(this.own);
  foreignAddresses = () => Promise.resolve(this.foreign);
  hasBridge = () => Promise.resolve(this.bridge);
  #note(call: string): Promise<void> {
    this.calls.push(call);
    return Promise.resolve();
  }
}

describe('networks of machines', () => {
  const seat = { host: 'local', driver: 'qemu' } as const;
  type Opened = { all: MachineNetworks; hypervisor: RecordedNetworks; north: RecordedNetworks };
  /** With another host, north, of which no addresses are known unless they are given. */
  const open = (given: object = {}, addresses?: readonly string[]): Opened => {
    const [hypervisor, north] = [new RecordedNetworks(), new RecordedNetworks()];
    const config = NetworksConfig.parse(given);
    const common = { config, installationId: '11111111-2222-4333-8444-555555555555' };
    const user = { whyNoUserNetwork: () => Promise.resolve('its loopback is the host’s') };
    const hosts = [
      new HostNetworks({
        ...{ ...common, ...user, host: 'local', hypervisor },
        addresses: () => addresses ?? [],
        log: silentLog,
      }),
      new HostNetworks({
        ...{ ...common, ...user, host: 'north', hypervisor: north },
        addresses: () => addresses,
        log: silentLog,
      }),
    ];
    return { all: new MachineNetworks({ config, hosts, log: silentLog }), hypervisor, north };
  };
  const metadata = anImageMetadata();
  const overTcp = anImageMetadata({
    tsi: { transport: 'tcp', login: 'grid', jobsDirectory: '/home/grid/jobs' },
  });

  it('are offered as configured, where the host can make them', async () => {
    const { all, hypervisor } = open({ user: {}, nat: {}, isolated: {} });
    hypervisor.refusal = new Error('no bridges in this kernel');
    await all.check(seat);
    assert.deepEqual(all.offered, ['none']);
    await assert.rejects(all.require('nat', 'parameters.network', { driver: 'qemu', metadata }), {
      code: 'BAD_REQUEST',
      message: /^parameters\.network: nat cannot be had: local: .*no bridges in this kernel; north/,
    });
    hypervisor.refusal = undefined;
    await all.check(seat);
    assert.deepEqual(all.offered, ['none', 'nat', 'isolated']);
  });

  for (const [kind, machine, text] of [
    ['bridge', { driver: 'qemu', metadata }, /this site offers none, nat/],
    ['nat', { driver: 'lxc', metadata }, /containers/],
    ['nat', { driver: 'kvm', metadata: overTcp }, /tsi\.transport tcp/],
  ] as const)
    it(`are refused: ${kind} for ${machine.driver}, ${machine.metadata.tsi.transport}`, async () => {
      const { all } = open({ nat: {} });
      await all.check(seat);
      const refused = all.require(kind, 'parameters.network', machine);
      await assert.rejects(refused, { code: 'BAD_REQUEST', message: text });
    });

  it('give two machines that are asked for at once two addresses', () => {
    const { all } = open({ nat: {} });
    const wish = { ownerDn: one, parameters: { cpus: 1, memoryMiB: 96, network: 'nat' } } as const;
    const cards = ['a', 'b'].map((id) => all.promise({ ...wish, id }, []));
    assert.deepEqual(
      cards.map((card) => card?.address),
      ['10.178.0.2', '10.178.0.3'],
    );
    all.settle('a');
    assert.equal(all.promise({ ...wish, id: 'c' }, [])?.address, '10.178.0.2');
  });

  it('are there before their machine, and go after it', async () => {
    const { all, hypervisor } = open({ nat: {}, isolated: {} });
    for (const kind of ['nat', 'isolated'] as const) {
      const bare = aTargetSystem({ parameters: { cpus: 1, memoryMiB: 96, network: kind } });
      const system = { ...bare, card: all.promise(bare, [])! };
      await all.ensure(system);
      await all.release(system);
    }
    const nat = 'vsite-nat-11111111';
    const isolated = `vsite-${aTargetSystem().id}`;
    const mac = hypervisor.calls[2]?.split(' ')[2] ?? '';
    assert.deepEqual(hypervisor.calls, [
      ...[`ensure ${nat}`, `host 10.178.0.2 in ${nat}`, `no host ${mac} in ${nat}`],
      ...[`ensure ${isolated}`, `host 10.179.0.2 in ${isolated}`, `remove ${isolated}`],
    ]);
  });

  const north = { host: 'north', driver: 'qemu' } as const;

  it('of another host are not offered while what it has is not known, or what must not be reached there', async () => {
    const { all } = open({ nat: {} });
    assert.match(all.whyNotAt('north', 'nat') ?? '', /not known yet/);
    await Promise.all([all.check(seat), all.check(north)]);
    assert.deepEqual(all.offeredAt('north'), []);
    assert.match(
      all.problemsAt('north').nat ?? '',
      /must not reach .*hypervisor\.hosts: addresses/,
    );
    assert.deepEqual(all.offered, ['none', 'nat'], 'the other has it');
    const aMachine = aTargetSystem({ host: 'north', parameters: { cpus: 1, memoryMiB: 96 } });
    const card = {
      kind: 'nat',
      mac: '52:00:00:00:00:01',
      address: '10.178.0.2',
      host: 'x',
    } as const;
    await assert.rejects(all.ensure({ ...aMachine, card }), { code: 'CONFLICT' });
  });

  it('of another host are made there, and reach no address of it, its networks or other hosts', async () => {
    const { all, hypervisor, north: there } = open({ nat: {}, isolated: {} }, ['198.51.100.7']);
    there.foreign = ['198.51.100.129'];
    await all.check(north);
    assert.deepEqual(all.offeredAt('north'), ['nat', 'isolated']);
    const machine = {
      ownerDn: one,
      parameters: { cpus: 1, memoryMiB: 96, network: 'isolated' },
    } as const;
    const card = all.promise({ ...machine, id: 'a' }, [])!;
    there.calls.length = 0;
    await all.ensure({ id: 'a', host: 'north', driver: 'qemu', card });
    assert.deepEqual(there.calls, ['ensure vsite-a', 'host 10.179.0.2 in vsite-a']);
    await all.check(north);
    await all.ensure({
      ...{ id: 'b', host: 'north', driver: 'qemu' },
      card: all.promise(
        { ...machine, id: 'b', parameters: { ...machine.parameters, network: 'nat' } },
        [],
      )!,
    });
    for (const address of ['198.51.100.7', '198.51.100.129'])
      assert.match(
        there.filter,
        new RegExp(`action="drop" direction="out"[^>]*><ip dstipaddr="${address}"`),
      );
    await all.release({ id: 'a', host: 'north', driver: 'qemu', card });
    assert.equal(there.calls.at(-1), 'remove vsite-a');
    assert.deepEqual(hypervisor.calls, []);
  });

  it('of another host that was lost while it was looked at are offered once it is looked at again', async () => {
    const { all, north: there } = open({ nat: {} }, ['198.51.100.7']);
    there.refusal = new GridError('HYPERVISOR_UNAVAILABLE', 'no answer in time');
    await all.check(north);
    assert.match(all.whyNotAt('north', 'nat') ?? '', /not known yet/);
    there.refusal = undefined;
    await all.recheck(north);
    assert.deepEqual(all.offeredAt('north'), ['nat']);
    const calls = there.calls.length;
    await all.recheck(north);
    assert.equal(there.calls.length, calls, 'it is known');
  });

  it('of a host that came back while it was declared lost are offered once that is taken back', async () => {
    const { all } = open({ nat: {} }, ['198.51.100.7']);
    await all.recheck(north); // with the next comparison: its connection is not new any more
    assert.deepEqual(all.offeredAt('north'), ['nat']);
  });

  it('are offered where their bridge is', async () => {
    const { all, hypervisor, north: there } = open({ bridge: { name: 'br0' } }, ['198.51.100.7']);
    [hypervisor.bridge, there.bridge] = [false, true];
    await Promise.all([all.check(seat), all.check(north)]);
    assert.deepEqual([all.offeredAt('local'), all.offeredAt('north')], [[], ['bridge']]);
    assert.equal(all.whyNotAt('local', 'bridge'), 'there is no bridge br0');
    await all.require('bridge', 'parameters.network', { driver: 'qemu', metadata });
    there.bridge = false;
    await all.check(north);
    await assert.rejects(all.require('bridge', 'n', { driver: 'qemu', metadata }), {
      message:
        /^n: bridge cannot be had: local: there is no bridge br0; north: there is no bridge br0$/,
    });
  });

  it('of nobody are removed only when that is proven', async () => {
    const { all, hypervisor, north: there } = open({ isolated: {} }, ['198.51.100.7']);
    await all.check(seat);
    hypervisor.calls.length = 0;
    hypervisor.own = [
      { name: 'vsite-gone', targetId: 'gone' },
      { name: 'vsite-unknown', targetId: 'unknown' },
      { name: 'vsite-nat-11111111' },
    ];
    await all.sweep((id) => Promise.resolve(id === 'gone'));
    assert.deepEqual(hypervisor.calls, ['remove vsite-gone']);
    assert.equal(there.calls.length, 0, 'it has not answered yet');
    await all.check(north);
    there.own = [{ name: 'vsite-gone', targetId: 'gone' }];
    await all.sweep((id) => Promise.resolve(id === 'gone'));
    assert.ok(there.calls.includes('remove vsite-gone'));
  });
});

describe('QEMU’s own networking', () => {
  const socket = '/s/libvirt-sock';
  /** A /proc with these processes: their network namespace, and the sockets that it shows. */
  function withProcesses(
    processes: Readonly<
      Record<string, readonly [namespace: string, socket: string, route?: string]>
    >,
    check: (proc: string) => Promise<void>,
  ): Promise<void> {
    const proc = mkdtempSync(join(tmpdir(), 'vsite-proc-'));
    for (const [pid, [namespace, path, route = '']] of Object.entries(processes)) {
      mkdirSync(join(proc, pid, 'ns'), { recursive: true });
      mkdirSync(join(proc, pid, 'net'));
      symlinkSync(`net:[${namespace}]`, join(proc, pid, 'ns', 'net'));
      writeFileSync(join(proc, pid, 'net', 'route'), `Iface\tDestination\tGateway\n${route}`);
      writeFileSync(
        join(proc, pid, 'net', 'unix'),
        `0: 00000002 00000000 00010000 0001 01 7 ${path}\n1: 00000003 00000000 00000000 0001 03 8 ${socket}\n`,
      );
    }
    return check(proc).finally(() => rmSync(proc, { recursive: true }));
  }
  const uri = `qemu+unix:///system?socket=${socket}`;
  for (const [where, processes, reason] of [
    ['a namespace of its own', { self: ['1', '/x'], 1: ['1', '/x'], 7: ['2', socket] }, undefined],
    ["the server's", { self: ['2', socket], 1: ['1', '/x'], 7: ['2', socket] }, /host's network/],
    ["the host's", { self: ['2', '/x'], 1: ['1', socket] }, /host's network/],
    [
      'one of its own where the host’s is not seen',
      { self: ['1', '/x'], 7: ['2', socket] },
      undefined,
    ],
    [
      'one that leads out where the host’s is not seen',
      { self: ['1', '/x'], 7: ['2', socket, 'eth0\t00000000\t0102A8C0\n'] },
      /may be the host's/,
    ],
    ['one that is not seen', { self: ['2', '/x'], 1: ['2', '/x'] }, /cannot be seen/],
  ] as const)
    it(`is ${reason ? 'refused' : 'offered'} where libvirtd is in ${where}`, async () => {
      await withProcesses(processes, async (proc) => {
        const why = await whyNoUserNetwork(uri, proc);
        if (reason) assert.match(why ?? '', reason);
        else assert.equal(why, undefined);
      });
    });

  it('is refused where libvirtd is elsewhere', async () => {
    assert.match((await whyNoUserNetwork('qemu+ssh://other/system')) ?? '', /another host/);
  });
});
