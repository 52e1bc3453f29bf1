import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { z } from 'zod';
import { systemClock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog } from '#kernel/log.js';
import { HostsConfig } from '#xnjs/vm/hosts/config.js';
import { PinningConfig } from '#xnjs/vm/hosts/cores.js';
import { abilitiesOf } from '#xnjs/vm/hosts/host-abilities.js';
import { HostStorage } from '#xnjs/vm/hosts/storage/host-storage.js';
import { chooseHost, type Demand, type HostView } from '#xnjs/vm/hosts/choose-host.js';
import type { Host } from '#xnjs/vm/hosts/host.js';
import { HostPlacement } from '#xnjs/vm/hosts/host-placement.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import { parseHostLabels } from '#xnjs/vm/hosts/labels.js';
import type { Hypervisor } from '#xnjs/vm/hypervisor.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { anImageMetadata, aTargetSystem } from './samples.js';

const demand = (changes: Partial<Demand> = {}): Demand => ({
  ...{ cpus: 2, memoryMiB: 512, diskMiB: 0, drivers: ['qemu', 'kvm'], labels: [] },
  ...{ isPinned: false, architecture: 'x86_64', display: false },
  labelsField: 'hostLabels',
  ...changes,
});
const host = (name: string, changes: Partial<HostView> = {}): HostView => ({
  ...{ name, drivers: ['qemu'], labels: [], isDrained: false, isLocal: name === 'local' },
  room: { cores: 8, memoryMiB: 4096 },
  used: { cores: 0, memoryMiB: 0, diskMiB: 0 },
  ownCores: { all: 0, free: [] },
  hasImage: false,
  ...changes,
});
const busy = { cores: 4, memoryMiB: 1024, diskMiB: 0 };

describe('the host of a new machine', () => {
  const cases: [string, HostView[], Partial<Demand>, string, RegExp][] = [
    ['the only one', [host('a')], {}, 'a', /only one/],
    ['that with more room', [host('a', { used: busy }), host('b')], {}, 'b', /most room .* of 2/],
    [
      'that with saved memory, before its image',
      [host('a', { used: busy, hasMemory: true }), host('b', { hasImage: true })],
      {},
      'a',
      /memory of its image is saved there/,
    ],
    [
      'that with a spare, before saved memory',
      [host('a', { hasMemory: true }), host('b', { used: busy, hasSpare: true })],
      {},
      'b',
      /a spare of its image runs there/,
    ],
    [
      'that with its image, before more room',
      [host('a', { used: busy, hasImage: true }), host('b')],
      {},
      'a',
      /image is at hand/,
    ],
    [
      'that with the quicker driver, before its image',
      [host('a', { hasImage: true }), host('b', { drivers: ['kvm'] })],
      {},
      'b',
      /it has kvm/,
    ],
    [
      'that with the labels, however full',
      [host('a'), host('b', { labels: ['gpu', 'ssd'], used: busy })],
      { labels: ['ssd'] },
      'b',
      /only one/,
    ],
    [
      'that whose own cores are less in use, where it is to have some',
      [
        host('a', { used: busy, ownCores: { all: 4, free: [4, 5, 6, 7] } }),
        host('b', { ownCores: { all: 4, free: [6, 7] } }),
      ],
      { isPinned: true },
      'a',
      /most room/,
    ],
    [
      'not one that has no files of ours, where there are volumes',
      [host('a', { hasOwnStorage: true }), host('b', { used: busy })],
      { sharedOnly: 'volumes' },
      'b',
      /only one/,
    ],
    [
      'one that has its kind of network',
      [
        host('a', { whyNoNetwork: (kind) => `no ${kind}` }),
        host('b', { used: busy, whyNoNetwork: () => undefined }),
      ],
      { network: 'nat' },
      'b',
      /only one/,
    ],
    [
      'not one that has not its architecture',
      [host('a', { whyUnable: () => 'no aarch64' }), host('b', { used: busy })],
      { architecture: 'aarch64' },
      'b',
      /only one/,
    ],
    [
      'that of a slower driver, where the quicker one cannot run it',
      [
        host('a', {
          drivers: ['kvm', 'qemu'],
          whyUnable: (driver) => (driver === 'kvm' ? 'no aarch64' : undefined),
        }),
      ],
      { architecture: 'aarch64' },
      'a',
      /only one/,
    ],
    [
      'not one that was declared lost',
      [host('a', { drivers: [], loss: 'it was declared lost' }), host('b', { used: busy })],
      {},
      'b',
      /only one/,
    ],
    ['not one that is drained', [host('a', { isDrained: true }), host('b')], {}, 'b', /only one/],
    ['not one that is silent', [host('a', { drivers: [] }), host('b')], {}, 'b', /only one/],
    [
      'not one whose storage cannot be used',
      [host('a', { problem: 'no pool' }), host('b')],
      {},
      'b',
      /./,
    ],
    ['not one that is not known', [host('a', { room: undefined }), host('b')], {}, 'b', /./],
    [
      'that of the server, where it needs its network',
      [host('a'), host('local', { used: busy })],
      { localOnly: 'a network' },
      'local',
      /only one/,
    ],
    [
      'one without bounds',
      [host('a', { room: {}, used: { cores: 99, memoryMiB: 99_999, diskMiB: 9 } })],
      {},
      'a',
      /./,
    ],
  ];
  for (const [what, views, wish, name, why] of cases)
    it(`is ${what}`, () => {
      const spot = chooseHost(views, demand(wish));
      assert.equal(spot.host, name);
      assert.match(spot.why, why);
    });

  const refusals: [string, HostView[], Partial<Demand>, string, RegExp][] = [
    [
      'no room: what each of them lacks',
      [host('a', { used: { ...busy, cores: 7 } }), host('b', { isDrained: true })],
      {},
      'LIMIT_REACHED',
      /a: cores: 2 asked for, 1 of 8 free; b: it is drained/,
    ],
    [
      'no such network: why',
      [host('a', { whyNoNetwork: (kind) => `no ${kind} there` }), host('b', { isDrained: true })],
      { network: 'nat' },
      'LIMIT_REACHED',
      /a: its networks: nat: no nat there; b: it is drained/,
    ],
    [
      'none that can run it: why, and it is no use to wait',
      [host('a', { whyUnable: () => 'no aarch64' }), host('b', { whyUnable: () => 'none either' })],
      { architecture: 'aarch64' },
      'BAD_REQUEST',
      /no host can run the machine: a: no aarch64; b: none either/,
    ],
    [
      'none that can run it but one that is full',
      [host('a', { whyUnable: () => 'no aarch64' }), host('b', { used: { ...busy, cores: 8 } })],
      { architecture: 'aarch64' },
      'LIMIT_REACHED',
      /a: no aarch64; b: cores: 2 asked for, 0 of 8 free/,
    ],
    [
      'no disk left',
      [host('a', { room: { diskMiB: 100 }, used: { ...busy, diskMiB: 60 } })],
      { diskMiB: 50 },
      'LIMIT_REACHED',
      /diskMiB: 50 asked for, 40 of 100 free/,
    ],
    [
      'too few cores that it could have for itself',
      [host('a', { ownCores: { all: 4, free: [7] } }), host('b')],
      { isPinned: true },
      'LIMIT_REACHED',
      /a: cores for one machine alone: 2 asked for, 1 of 4 free; b: .* 0 of 0 free/,
    ],
    [
      'no such label: the field, and those that there are',
      [host('a', { labels: ['ssd'] })],
      { labels: ['gpu'], labelsField: 'Resources.HostLabels' },
      'BAD_REQUEST',
      /^Resources\.HostLabels: no host has gpu; there are ssd$/,
    ],
    [
      'no answer from any that has the labels',
      [host('a', { labels: ['gpu'], drivers: [] }), host('b')],
      { labels: ['gpu'] },
      'HYPERVISOR_UNAVAILABLE',
      /a: no libvirt for qemu or kvm answers/,
    ],
  ];
  for (const [what, views, wish, code, text] of refusals)
    it(`there is none, with ${what}`, () => {
      assert.throws(
        () => chooseHost(views, demand(wish)),
        (error: unknown) => {
          assert.ok(error instanceof GridError);
          assert.equal(error.code, code);
          assert.match(error.message, text);
          return true;
        },
      );
    });

  it('holds what was placed there until it is stored', () => {
    const records: TargetSystem[] = [];
    const answering = { available: () => ['qemu'] } as unknown as Hypervisor; // asked for this only
    const common = { hypervisor: answering, drivers: ['qemu'], labels: [], drain: false } as const;
    const capacity = { cores: 3, memoryMiB: 4096 };
    const all: Host[] = ['a', 'b'].map((name) => ({ name, ...common, capacity, reserved: {} }));
    const hosts = new Hosts({ hosts: all, log: silentLog });
    const places = new HostPlacement({ hosts, records: () => records });
    const plan = aTargetSystem({ image: { id: 'i', metadata: anImageMetadata(), parts: {} } });
    const first = places.hold('1', plan, undefined);
    const second = places.hold('2', plan, undefined);
    assert.deepEqual([first.host, second.host], ['a', 'b']);
    assert.throws(() => places.hold('3', plan, undefined), { code: 'LIMIT_REACHED' });
    second.release();
    assert.equal(places.choose(plan).host, 'b');
    records.push({ ...plan, id: '1', host: first.host });
    assert.deepEqual(places.used('a'), { cores: 2, memoryMiB: 384, diskMiB: 0 });
    first.release();
    assert.deepEqual(places.used('a'), { cores: 2, memoryMiB: 384, diskMiB: 0 });
  });

  it('has cores for one machine alone, from its request until nothing of that is left', () => {
    const records: TargetSystem[] = [];
    const hypervisor = { available: () => ['qemu'] } as unknown as Hypervisor; // asked for this only
    const pinning = PinningConfig.parse({ own: '2-3,5', others: '0-1' });
    const about = { name: 'local', drivers: ['qemu'], labels: [], drain: false } as const;
    const host = { ...about, hypervisor, pinning, capacity: {}, reserved: {} };
    const hosts = new Hosts({ hosts: [host], log: silentLog });
    const places = new HostPlacement({ hosts, records: () => records });
    const image = { id: 'i', metadata: anImageMetadata(), parts: {} };
    const plan = aTargetSystem({ image, parameters: { cpus: 2, memoryMiB: 384, pinned: true } });
    const shared = aTargetSystem({ image });
    const first = places.hold('1', plan, undefined);
    assert.deepEqual([first.cores, places.hold('2', shared, undefined).cores], [[2, 3], undefined]);
    const another = () => places.hold('3', plan, undefined);
    assert.throws(another, { code: 'LIMIT_REACHED', message: /2 asked for, 1 of 3 free/ });
    records.push({ ...plan, id: '1', cores: first.cores! });
    first.release();
    for (const state of ['READY', 'SUSPENDED', 'FAILED', 'DESTROYING'] as const) {
      records[0] = { ...records[0]!, state };
      assert.throws(another, { code: 'LIMIT_REACHED' }, state);
    }
    records.pop();
    assert.deepEqual(another().cores, [2, 3]);
    assert.equal(hosts.sharedCores(shared), '0,1');
  });

  it('has two kinds of cores, of which each machine counts on its own kind', () => {
    const records: TargetSystem[] = [];
    const hypervisor = { available: () => ['qemu'] } as unknown as Hypervisor; // asked for this only
    const pinning = PinningConfig.parse({ own: '8-15', others: '0-7' });
    const about = { name: 'local', drivers: ['qemu'], labels: [], drain: false } as const;
    const room = { capacity: { cores: 16 }, reserved: {} };
    const all = [{ ...about, ...room, hypervisor, pinning }];
    const places = new HostPlacement({
      hosts: new Hosts({ hosts: all, log: silentLog }),
      records: () => records,
    });
    const image = { id: 'i', metadata: anImageMetadata(), parts: {} };
    const shared = aTargetSystem({ image, parameters: { cpus: 4, memoryMiB: 384 } });
    const pinned = aTargetSystem({ image, parameters: { ...shared.parameters, pinned: true } });
    for (const id of ['1', '2']) places.hold(id, shared, undefined);
    const third = () => places.hold('3', shared, undefined);
    assert.throws(third, { code: 'LIMIT_REACHED', message: /4 asked for, 0 of 8 free/ });
    const first = places.hold('4', pinned, undefined);
    records.push({ ...pinned, id: '4', cores: first.cores! });
    first.release();
    assert.deepEqual(places.hold('5', pinned, undefined).cores, [12, 13, 14, 15]);
    const more = () => places.hold('6', pinned, undefined);
    assert.throws(more, { code: 'LIMIT_REACHED', message: /alone: 4 asked for, 0 of 8 free/ });
    assert.equal(places.used('local').cores, 16, 'what operators see is all of it');
  });

  it('is asked for by labels in a list, or a text with commas', () => {
    assert.deepEqual(parseHostLabels('l', 'gpu, ssd'), { labels: ['gpu', 'ssd'], field: 'l' });
    assert.deepEqual(parseHostLabels('l', ['gpu']), { labels: ['gpu'], field: 'l' });
    assert.equal(parseHostLabels('l', undefined), undefined);
    for (const bad of [7, ['a b'], 'x,,y', { gpu: true }])
      assert.throws(() => parseHostLabels('f', bad), { code: 'BAD_REQUEST', message: /^f: / });
  });
});

describe('hosts', () => {
  it('that are not configured have machines of which nothing is known', () => {
    const hosts = new Hosts({ hosts: [], log: silentLog });
    const of = () => hosts.of({ host: 'gone' });
    assert.throws(of, { code: 'HYPERVISOR_UNAVAILABLE', message: /host gone is not in/ });
  });

  const faultsOf = (hosts: z.input<typeof HostsConfig>): string[] =>
    HostsConfig.safeParse(hosts).error?.issues.map(
      ({ path, message }) => `${path.join('.')}: ${message}`,
    ) ?? [];
  const north = { name: 'north', uri: 'qemu+tls://north/system', images: 'shared' } as const;
  const storage = { pool: 'vsite', imagesMiB: 1_000 };
  const copied = { ...north, images: 'copied', storage } as const;
  const containers = 'lxc+tls://north/system';
  const onlyContainers = { name: 'north', containers, images: 'shared' } as const;

  it('are configured by name, where their libvirt is, and what is special of them', () => {
    assert.deepEqual(faultsOf([north, { name: 'local', labels: ['ssd'], drain: true }]), []);
    assert.deepEqual(faultsOf([copied]), []);
    assert.deepEqual(faultsOf([{ ...north, containers, addresses: ['192.0.2.0/24'] }]), []);
    assert.deepEqual(faultsOf([onlyContainers]), []);
  });

  it('tell what machines can do there that the server has no files in common with', () => {
    const host: Omit<Host, 'name'> = {
      ...{ hypervisor: {} as Hypervisor, drivers: ['qemu'], labels: [], drain: false },
      ...{ capacity: {}, reserved: {} },
    };
    const storage = new HostStorage({
      ...{ host: 'north', pool: 'vsite', maxBytes: 1, installationId: 'i', log: silentLog },
      ...{ clock: systemClock, client: new LibvirtClient({ uri: north.uri, log: silentLog }) },
      store: { get: () => Promise.resolve({}), set: () => Promise.resolve() },
    });
    const local = abilitiesOf({ name: 'local', ...host });
    const shared = abilitiesOf({ name: 'north', ...host });
    const own = abilitiesOf({ name: 'north', ...host, storage });
    assert.deepEqual([local.thaw, shared.thaw, own.thaw], ['anywhere', 'anywhere', 'there']);
    assert.deepEqual(
      [local, shared, own].map((each) => each.snapshots && each.spares && each.warmStarts),
      [true, true, true],
    );
    assert.deepEqual(
      [local, shared, own].map((each) => each.liveScreens),
      [true, false, false],
    );
    assert.deepEqual(
      [local, shared, own].map((each) => each.console),
      [true, true, true],
    );
  });

  const faults: [z.input<typeof HostsConfig>, RegExp][] = [
    [[{ ...north, uri: 'qemu+carrier://north/system' }], /^0\.uri: .*unknown transport: carrier/],
    [[{ ...north, uri: 'lxc+tls://north/system' }], /^0\.uri: must be of the driver qemu/],
    [[{ ...north, containers: north.uri }], /^0\.containers: must be of the driver lxc/],
    [[{ ...copied, containers }], /^0\.containers: .*libvirt cannot copy: images must be shared/],
    [[{ name: 'local', containers }], /^0\.containers: of the host local is hypervisor\.cont/],
    [[{ ...onlyContainers, acceleration: 'kvm' }], /^0\.acceleration: is of the machines of uri/],
    [[{ ...north, addresses: [] }], /^0\.addresses: /],
    [[{ ...north, addresses: ['north'] }], /^0\.addresses\.0: must be an IPv4 address or network/],
    [[{ name: 'local', addresses: ['192.0.2.1'] }], /^0\.addresses: .*local are read there/],
    [[{ name: 'north', uri: north.uri }], /^0\.images: must be shared/],
    [[{ name: 'north', images: 'shared' }], /^0\.uri: must be given, or containers/],
    [[north, north], /^1\.name: north is there twice/],
    [[{ ...north, name: 'local' }], /^0\.uri: of the host local is hypervisor\.machines/],
    [[{ ...north, pinning: { own: '3-1', others: '0' } }], /^0\.pinning\.own: must be numbers/],
    [[{ ...north, pinning: { own: '1-3', others: '3' } }], /^0\.pinning\.others: .* than own/],
    [[{ ...north, images: 'copied' }], /^0\.storage: must be given where images are copied/],
    [[{ ...north, storage }], /^0\.storage: is for hosts whose images are copied/],
    [[{ name: 'local', images: 'copied', storage }], /^0\.images: .*here.*0\.storage: .*stateDir/],
    [[{ ...copied, storage: { ...storage, imagesMiB: 0 } }], /^0\.storage\.imagesMiB: /],
    [[{ ...north, labels: ['a b'] }], /^0\.labels\.0: must be a word/],
  ];
  for (const [config, text] of faults)
    it(`are refused with the fault ${text.source}`, () =>
      assert.match(faultsOf(config).join(), text));
});
