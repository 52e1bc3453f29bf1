import assert from 'node:assert/strict';
import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { formatDate } from '#kernel/clock.js';
import { silentLog as log } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { createSettingsStore } from '#xnjs/persistence/settings-store.js';
import { createTargetStore } from '#xnjs/persistence/sql-target-store.js';
import { createUsageStore } from '#xnjs/persistence/sql-usage-store.js';
import { markXml, readMark } from '#xnjs/vm/domain-mark.js';
import { HostPlacement } from '#xnjs/vm/hosts/host-placement.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import { LostHosts, type LostHostsOptions } from '#xnjs/vm/hosts/lost-hosts.js';
import { lossesIn } from '#xnjs/vm/hosts/open-hosts.js';
import type { HostStorage } from '#xnjs/vm/hosts/storage/host-storage.js';
import type { OwnDomain } from '#xnjs/vm/hypervisor.js';
import type { ImageSearch, ImageSource } from '#xnjs/vm/image-source.js';
import { plainUser } from '#xnjs/vm/placement/requester.js';
import { fingerprint } from '#xnjs/vm/parking.js';
import { step, type VmEvent } from '#xnjs/vm/state.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { TargetSystems } from '#xnjs/vm/target-systems.js';
import { newUsage } from '#xnjs/vm/usage.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { scratch, until } from '../job/rig.js';
import { openTables } from '../persistence/databases.js';
import { aHost, away, equal } from './fake-host.js';
import { anImageMetadata, aSnapshot, aTargetSystem, plainHost } from './samples.js';

const installationId = '11111111-2222-4333-8444-555555555555';
const admin = 'CN=Admin,O=Grid';
const ready = (first: string, changes: Partial<TargetSystem> = {}): TargetSystem => {
  const id = `${first}${aTargetSystem().id.slice(1)}`;
  const evidence = { source: 'agent', fact: 'its agent answers', atMs: 1 } as const;
  const system = aTargetSystem({ id, host: 'north', ...changes });
  return step(system, { type: 'agentUp', evidence, boot: {} });
};
const disk = { id: 'i', metadata: anImageMetadata({ format: 'qcow2' }), parts: {} };
const snapshot = aSnapshot({ host: fingerprint(equal) });
const ids = {
  plain: ready('a').id,
  restarted: ready('b').id,
  withDisk: ready('c').id,
  diskThere: ready('d').id,
  restored: ready('e').id,
  parked: ready('f').id,
  ending: ready('0').id,
  other: ready('1').id,
  inPool: ready('2').id,
  reverting: ready('3').id,
  elsewhere: ready('4').id,
  thawing: ready('5').id,
  freezing: ready('6').id,
  off: ready('7').id,
  pinned: ready('8').id,
};
const onDisk = {
  state: 'SUSPENDED',
  desired: 'suspended',
  parkedOn: fingerprint(equal),
} as const;
const undertaking = { do: 'revert', snapshotId: snapshot.id } as const;
const records: TargetSystem[] = [
  ready('a'),
  ready('b', { recovery: 'restart' }),
  ready('c', { recovery: 'restart', image: disk }),
  ready('d', { recovery: 'restart', image: disk }),
  ready('e', { recovery: 'restore', image: disk, snapshots: [snapshot] }),
  { ...ready('f'), ...onDisk },
  { ...ready('0'), state: 'DESTROYING' },
  { ...ready('1', { host: 'local' }), state: 'FAILED' },
  ready('2', { host: 'south', image: disk, snapshots: [snapshot] }),
  { ...ready('3', { snapshots: [snapshot], undertaking }), ...onDisk },
  { ...ready('4', { host: 'not configured' }), ...onDisk },
  { ...ready('5', { parkedOn: onDisk.parkedOn, recovery: 'restart' }), state: 'UNREACHABLE' },
  { ...ready('6', onDisk), ...onDisk, state: 'PAUSED' },
  { ...ready('7', { snapshots: [snapshot] }), state: 'FAILED' },
  ready('8', { recovery: 'restore', snapshots: [snapshot], cores: [1] }),
];

describe('a host that is declared lost', { timeout: 60_000 }, () => {
  const shared = new Scope();
  const clock = new ShiftedClock();
  const north = aHost(false);
  const local = aHost(true);
  const south = aHost(false);
  let directory = '';
  let systems: TargetSystems;
  let close: () => Promise<void>;

  async function start(): Promise<void> {
    const scope = new Scope();
    const database = await openTables(scope, `sqlite:${join(directory, 'db.sqlite')}`);
    // a pool that nobody has to ask
    const storage = {
      ...{ status: {}, hasImage: () => false },
      ...{ load: () => Promise.resolve(), follow: () => undefined },
    } as unknown as HostStorage;
    const hosts = new Hosts({
      hosts: [
        { ...plainHost, name: 'local', hypervisor: local.hypervisor },
        { ...plainHost, name: 'north', hypervisor: north.hypervisor, labels: ['far'] },
        { ...plainHost, name: 'south', hypervisor: south.hypervisor, storage },
      ],
      losses: lossesIn(createSettingsStore(database)),
      log,
    });
    await hosts.start();
    const store = createTargetStore(database);
    const usage = createUsageStore(database);
    for (const record of directory !== filled ? records : []) {
      await store.save(record, undefined, []);
      const about = { id: record.id, ownerDn: record.ownerDn, imageName: 'i', startedMs: 1_000 };
      await usage.save([{ ...newUsage(about, 1), measuredMs: 5_000 }]);
    }
    filled = directory;
    systems = scope.use(
      new TargetSystems({
        ...{ store, hosts, clock, log, installationId, workspace: new Workspace(directory) },
        images: { isHere: () => Promise.reject(away()) } as unknown as ImageSource & ImageSearch,
        usage: { store: usage, intervalMs: 1e9, keepMs: 1e12 },
        ...{ bootTimeoutMs: 1e9, heartbeatMs: 1_000 },
        limits: { cpus: 4, memoryMiB: 4096, perUser: 99 },
      }),
    );
    await systems.start();
    close = () => scope.close();
  }
  let filled = '';

  before(async () => {
    directory = scratch(shared);
    for (const id of [ids.withDisk, ids.restored]) {
      mkdirSync(join(directory, 'vms', id), { recursive: true });
      writeFileSync(join(directory, 'vms', id, 'overlay.qcow2'), '');
    }
    const workspace = new Workspace(directory);
    for (const id of [ids.reverting, ids.elsewhere, ids.thawing, ids.freezing, ids.off])
      mkdirSync(join(directory, 'vms', id));
    for (const id of [ids.reverting, ids.elsewhere, ids.thawing])
      writeFileSync(workspace.parkedMemory({ id }), `LibvirtQemudSave ${id}`);
    writeFileSync(workspace.parkedMemory({ id: ids.freezing }), 'LibvirtQemudPart');
    for (const id of [ids.reverting, ids.elsewhere, ids.off]) {
      const kept = join(directory, 'vms', id, 'snapshots', snapshot.id);
      mkdirSync(kept, { recursive: true });
      writeFileSync(join(kept, 'memory'), `LibvirtQemudSave of the snapshot of ${id}`.repeat(200));
    }
    await start();
  });
  after(async () => {
    await close();
    await shared.close();
  });

  const told = (id: string): string => {
    const { state, host, generation = 1, evidence } = systems.get(id);
    return `${state} at ${host}, ${generation}: ${evidence.fact}`;
  };
  /** Until hosts are compared the next time. */
  const compared = (what: string, done: () => boolean): Promise<void> =>
    until(what, () => {
      clock.advance(30_001);
      return done();
    });

  it("is so by nobody's word while it answers, nor the server's own, nor one that there is not", async () => {
    north.isUp = true;
    await assert.rejects(systems.lostHosts.declare('north', admin), {
      code: 'CONFLICT',
      message: /north answers \(qemu\)/,
    });
    north.isUp = false;
    await assert.rejects(systems.lostHosts.declare('local', admin), { code: 'BAD_REQUEST' });
    await assert.rejects(systems.lostHosts.declare('nowhere', admin), { code: 'NOT_FOUND' });
    await assert.rejects(systems.lostHosts.takeBack('north'), { code: 'NOT_FOUND' });
    assert.match(told(ids.plain), /^READY/);
  });

  it("ends what was there, with the administrator's word as evidence; what can goes on elsewhere", async () => {
    const atMs = clock.now();
    const outcomes = await systems.lostHosts.declare('north', admin);
    const there = records.filter(({ host }) => host === 'north').map(({ id }) => id);
    assert.deepEqual(Object.keys(outcomes).sort(), there.sort());
    const word = `host north was declared lost by ${admin} at ${formatDate(atMs).slice(0, 16)}`;
    assert.ok(told(ids.plain).startsWith(`FAILED at north, 1: ${word}`), told(ids.plain));
    assert.equal(systems.get(ids.plain).evidence.source, 'user');
    assert.match(told(ids.restarted), /^INITIALIZING at local, 2: .*goes on on host local/);
    assert.match(systems.get(ids.restarted).lostJobs ?? '', /declared lost/);
    assert.match(told(ids.withDisk), /^INITIALIZING at local, 2/);
    assert.match(told(ids.diskThere), /^FAILED at north, 1: .*its disk was there only/);
    assert.match(told(ids.restored), /^PAUSED at local, .*being restored from the snapshot/);
    const boots = /^INITIALIZING at local, 2: .*no snapshot that could be restored/;
    assert.match(told(ids.pinned), boots, 'its memory names cores of that host');
    assert.match(told(ids.parked), /^SUSPENDED at north/);
    assert.match(told(ids.thawing), /^SUSPENDED at north, 1: parked on disk/, 'nothing has run');
    assert.match(told(ids.freezing), /^FAILED at north/, 'not all of its memory is there');
    assert.equal(told(ids.other), 'FAILED at local, 1: its agent answers');
    await until('it is gone', () => !systems.list().some(({ id }) => id === ids.ending));
  });

  it('holds no room, is asked no more, and takes no machines; what ended with it has no cores on a quota', async () => {
    const { ownerDn } = aTargetSystem();
    const [quota] = await systems.planner.quotaOf(ownerDn, plainUser);
    const { plain, diskThere, freezing, off, ...rest } = ids;
    const onDisk = [rest.parked, rest.reverting, rest.elsewhere, rest.thawing];
    const ended = [plain, diskThere, freezing, off, ...onDisk];
    const counting = systems.list().filter(({ id }) => !ended.includes(id));
    assert.equal(quota?.used.cpus, 2 * counting.length);
    const [, host] = systems.places.list();
    assert.deepEqual([host?.loss?.by, host?.used.cores], [admin, 6]); // of what is parked
    const wish = { image: disk, parameters: { cpus: 1, memoryMiB: 64 } };
    const far = { labels: ['far'], field: 'hostLabels' };
    assert.throws(() => systems.places.choose({ ...wish, labels: far }), {
      code: 'HYPERVISOR_UNAVAILABLE',
      message: /north: it was declared lost by CN=Admin/,
    });
    assert.equal(systems.places.choose(wish).host, 'local');
    await until('its account is closed', () => systems.usage(ids.plain)?.endedMs !== undefined);
    assert.equal(systems.usage(ids.plain)?.endedMs, 5_000, 'when it was last read');
  });

  it('does not keep what is parked in files from being put back, or kept: nobody there is asked', async () => {
    const { reverting, elsewhere } = ids;
    await until('its former machine is gone', () => systems.get(reverting).reverted !== undefined);
    await systems.settled(reverting, { reverted: systems.get(reverting).reverted! });
    await until('it is put back', () => systems.get(reverting).undertaking === undefined);
    assert.match(told(reverting), /^SUSPENDED at north, 2: was put back/);
    const { id } = await systems.snapshots.take(
      elsewhere,
      'of a host that is not configured any more',
    );
    await until('it is kept', () => systems.snapshots.get(elsewhere, id).state === 'READY');
  });

  it('of which nothing is left waiting by a server that is started anew; files of its own went with it', async () => {
    await close();
    await start();
    assert.match(told(ids.plain), /^FAILED at north, 1/);
    assert.match(told(ids.restarted), /^INITIALIZING at local, 2/);
    await systems.lostHosts.declare('south', admin);
    assert.match(told(ids.inPool), /^FAILED at south/);
    assert.deepEqual(systems.get(ids.inPool).snapshots, undefined);
    await systems.destroy(ids.inPool);
    await until('it is gone', () => !systems.list().some(({ id }) => id === ids.inPool));
  });

  it('has what was off there put back elsewhere, by an equal that gets at the snapshot', async () => {
    const files = join(directory, 'vms', ids.off, 'snapshots', snapshot.id, 'memory');
    renameSync(files, `${files}.away`);
    const refused = { code: 'CONFLICT' };
    const revert = () => systems.snapshots.revert(ids.off, snapshot.id);
    await assert.rejects(revert, { ...refused, message: /was lost with host north/ });
    renameSync(`${files}.away`, files);
    local.isUp = false;
    await assert.rejects(revert, { ...refused, message: /declared lost.*no other can take it/ });
    local.isUp = true;
    await revert();
    assert.match(told(ids.off), /^PAUSED at local, 1: .* on host local/);
    await until('its former machine is gone', () => systems.get(ids.off).reverted !== undefined);
    await systems.settled(ids.off, { reverted: systems.get(ids.off).reverted! });
    await until('it is put back', () => systems.get(ids.off).undertaking === undefined);
    assert.match(told(ids.off), /at local, 2: .*was put back/);
    assert.ok(local.domains.some(({ id }) => id === ids.off));
  });

  it('that comes back all the same has what is left there removed, after a time of grace; nothing is adopted', async () => {
    const domain = (record: TargetSystem): OwnDomain => {
      const mark = readMark(markXml(record, installationId, 1))!;
      return { id: record.id, state: 'running', reason: '', mark };
    };
    const stranger = ready('9');
    north.domains = [...records.filter(({ host }) => host === 'north'), stranger].map(domain);
    north.isUp = true;
    const removed = records.filter(({ host }) => host === 'north').map(({ id }) => id);
    await compared('they are removed', () => removed.every((id) => north.removed.includes(id)));
    assert.ok(local.removed.every((id) => id === ids.other));
    const isTold = () => systems.orphans.includes(`north qemu ${stranger.id}`);
    await until('one that nobody knows is told of', isTold);
    assert.deepEqual([...new Set(north.removed)].sort(), removed.sort());
    assert.match(told(ids.parked), /^SUSPENDED at north/, 'its memory is in a file');
    assert.match(told(ids.plain), /^FAILED at north, 1/);
    assert.match(told(ids.restarted), /^INITIALIZING at local, 2/);
    assert.equal(
      systems.places.choose({ image: disk, parameters: { cpus: 1, memoryMiB: 64 } }).host,
      'local',
    );
  });

  it('is one like others again when that is taken back', async () => {
    assert.equal(systems.get(ids.plain).lostWithHost, 'machine');
    await systems.lostHosts.takeBack('north');
    const { ownerDn } = aTargetSystem();
    const used = async () => (await systems.planner.quotaOf(ownerDn, plainUser))[0]?.used.cpus;
    const counting = systems.list().filter(({ state }) => state !== 'SUSPENDED').length;
    await until(
      'what ended there counts as what ends elsewhere',
      async () => (await used()) === 2 * counting,
    );
    await close();
    await start();
    const far = { labels: ['far'], field: 'hostLabels' };
    const wish = { image: disk, parameters: { cpus: 1, memoryMiB: 64 } };
    assert.equal(systems.places.choose({ ...wish, labels: far }).host, 'north');
    assert.match(told(ids.plain), /^FAILED/);
  });
});

describe('saved memory of a machine that goes on elsewhere', () => {
  function settler(directory: string, record: TargetSystem) {
    const { hypervisor } = aHost(true);
    const hosts = new Hosts({ hosts: [{ ...plainHost, name: 'local', hypervisor }], log });
    const workspace = new Workspace(directory);
    const known = { record, wasMistaken: false };
    let left = Infinity;
    const store = (next: TargetSystem): Promise<void> => {
      if (left-- <= 0) return Promise.reject(new TypeError('killed, or another server acts'));
      known.record = next;
      if (next.host === 'local') known.wasMistaken ||= existsSync(workspace.parkedMemory(next));
      return Promise.resolve();
    };
    const lost = new LostHosts({
      hosts,
      places: new HostPlacement({ hosts, records: () => [] }),
      records: {
        find: () => known.record,
        save: store,
        applyNow: (_: string, event: VmEvent) => store(step(known.record, event)),
      },
      workspace,
      clock: new ShiftedClock(),
    } as unknown as LostHostsOptions); // the calls that are made are above
    /** @param steps what is stored until the server dies. @returns whether it came to its end */
    const settle = async (steps = Infinity): Promise<boolean> => {
      await hosts.setLoss('north', { by: admin, atMs: 1 });
      left = steps;
      return await lost.settle(record.id).then(
        () => true,
        () => false,
      );
    };
    return { known, settle };
  }

  it('is gone before that, and left to the server that acts, wherever one dies', async () => {
    const record = ready('b', { recovery: 'restart' });
    for (let steps = 0; ; steps++) {
      await using scope = new Scope();
      const directory = scratch(scope);
      const memory = new Workspace(directory).parkedMemory(record);
      mkdirSync(dirname(memory), { recursive: true });
      writeFileSync(memory, 'LibvirtQemudSave of an earlier time');
      const { known, settle } = settler(directory, record);
      const isOver = await settle(steps);
      if (steps === 0) assert.ok(existsSync(memory), 'it may be of another making');
      if (!isOver) await settle();
      assert.deepEqual([known.record.host, known.record.generation], ['local', 2]);
      assert.equal(known.wasMistaken, false, `after ${steps} steps`);
      if (isOver) return;
    }
  });
});
