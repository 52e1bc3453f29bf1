import assert from 'node:assert/strict';
import { execFileSync, fork } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, statSync } from 'node:fs';
import { mkdir, readFile, readdir, rm, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { systemClock as clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { PoolVolumes } from '#kernel/libvirt/pool-volumes.js';
import { silentLog as log } from '#kernel/log.js';
import type { Database } from '#kernel/persistence/database.js';
import { Scope } from '#kernel/scope.js';
import { createSettingsStore } from '#xnjs/persistence/settings-store.js';
import { Comparison } from '#xnjs/vm/comparison.js';
import type { Host } from '#xnjs/vm/hosts/host.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import { copiesIn } from '#xnjs/vm/hosts/open-hosts.js';
import type { ImageFile } from '#xnjs/vm/hosts/storage/copied-images.js';
import { HostStorage } from '#xnjs/vm/hosts/storage/host-storage.js';
import type { Hypervisor } from '#xnjs/vm/hypervisor.js';
import type { SystemRecords } from '#xnjs/vm/system-records.js';
import type { TargetSystemsOptions } from '#xnjs/vm/target-systems-options.js';
import { aDaemon, withoutLibvirtd } from '../../kernel/libvirt/daemon.js';
import { nodeFlags, program } from '../../program.js';
import { until } from '../job/rig.js';
import { copiedImages, installationId, openSettings, prefix } from './copied-images-rig.js';
import { anImageMetadata, aTargetSystem, plainHost } from './samples.js';

const mib = 1024 ** 2;

/** How often, and how much, was sent; tells what is done. */
class Counted extends PoolVolumes {
  readonly uploads: number[] = [];
  onBytes: (sent: number) => void = () => undefined;
  onRemove: (name: string) => void = () => undefined;
  onDownload: () => void = () => undefined;

  override async remove(name: string) {
    await super.remove(name);
    this.onRemove(name);
  }

  override async *download(...args: Parameters<PoolVolumes['download']>) {
    this.onDownload();
    yield* super.download(...args);
  }

  override async upload(...[name, open, at, options, told]: Parameters<PoolVolumes['upload']>) {
    const index = this.uploads.push(0) - 1;
    await super.upload(name, open, at, options, (bytes) => {
      this.uploads[index] = (this.uploads[index] ?? 0) + bytes;
      this.onBytes(this.uploads[index]);
      told?.(bytes);
    });
  }
}

describe('images that are copied to a host', { skip: withoutLibvirtd, timeout: 180_000 }, () => {
  const scope = new Scope();
  let daemon: Awaited<ReturnType<typeof aDaemon>>;
  let client: LibvirtClient;
  let pools = 0;
  before(async () => {
    daemon = await aDaemon();
    scope.defer(() => daemon[Symbol.asyncDispose]());
    client = scope.use(await daemon.connect('qemu', { callTimeoutMs: 60_000 }));
  });
  after(() => scope.close());

  /** A pool of its own and a database of its own: a host and a server that were never met. */
  async function aPool(prepare: (path: string) => Promise<void> = () => Promise.resolve()) {
    pools += 1;
    const pool = `pool${pools}`;
    const path = join(daemon.stateDir, pool);
    await mkdir(path);
    await prepare(path);
    const xml = `<pool type='dir'><name>${pool}</name><target><path>${path}</path></target></pool>`;
    await client.call('storage_pool_create_xml', { xml, flags: 0 });
    const directory = join(daemon.stateDir, `server${pools}`);
    mkdirSync(directory);
    const database = await openSettings(scope, directory);
    return { pool, path, directory, database, volumes: new Counted(client, pool) };
  }

  async function aFile(sizeBytes: number, data = randomBytes(sizeBytes)): Promise<ImageFile> {
    const sha256 = createHash('sha256').update(data).digest('hex');
    const path = join(daemon.stateDir, `file-${sha256.slice(0, 12)}`);
    await writeFile(path, data);
    return { sha256, sizeBytes: data.length, path };
  }

  const nameOf = ({ sha256 }: ImageFile): string => `${prefix}-image-${sha256}`;
  const isSame = async (path: string | undefined, { path: original }: ImageFile) =>
    assert.ok((await readFile(path!)).equals(await readFile(original)), 'the copy is the image');

  it('arrive once for all who want them, and are found by the next server', async () => {
    const { volumes, database } = await aPool();
    const images = await copiedImages(database, volumes);
    const file = await aFile(3 * mib + 5);
    assert.equal(await images.find(file), undefined);
    const paths = await Promise.all([images.copy(file), images.copy(file), images.copy(file)]);
    assert.equal(new Set(paths).size, 1);
    assert.deepEqual(volumes.uploads, [file.sizeBytes]);
    await isSame(paths[0], file);
    const next = await copiedImages(database, volumes);
    assert.ok(next.has(file.sha256));
    assert.equal(await next.find(file), paths[0]);
  });

  it('go on where they were after kill -9 in the middle', async () => {
    const { pool, path, directory, database, volumes } = await aPool();
    const file = await aFile(24 * mib);
    const args = [directory, daemon.options('qemu').uri, pool, file.path, file.sha256];
    const child = fork(program('test/xnjs/vm/copy-process.ts'), args, { execArgv: [...nodeFlags] });
    const died = once(child, 'exit');
    const [word] = (await Promise.race([once(child, 'message'), died])) as unknown[];
    assert.equal(word, 'held');
    child.kill('SIGKILL');
    await died;
    const images = await copiedImages(database, volumes);
    assert.equal(images.has(file.sha256), false, 'what has not arrived does not count');
    assert.equal(images.usedBytes, file.sizeBytes, 'what is there is known');
    const there = statSync(join(path, nameOf(file))).size;
    assert.ok(there > 0 && there < file.sizeBytes, `${there} bytes have arrived`);
    await isSame(await images.copy(file), file);
    assert.ok(volumes.uploads[0]! <= file.sizeBytes - there, 'what was there is not sent again');
    assert.equal(volumes.uploads.length, 1);
  });

  it('that were damaged on their way or later are found out and made anew', async () => {
    const { path, database, volumes } = await aPool();
    const file = await aFile(8 * mib);
    await volumes.create({ name: nameOf(file), sizeBytes: 0, format: 'raw' });
    await writeFile(join(path, nameOf(file)), randomBytes(5 * mib));
    const images = await copiedImages(database, volumes);
    const first = await images.copy(file);
    await isSame(first, file);
    assert.deepEqual(volumes.uploads, [3 * mib, 8 * mib], 'first to its end, then anew');
    // somebody writes to it, without a change of its length
    await writeFile(first, randomBytes(8 * mib));
    assert.equal(await images.find(file), undefined);
    await isSame(await images.copy(file), file);
    await truncate(first, 4 * mib);
    assert.equal(await images.find(file), undefined);
    await isSame(await images.copy(file), file);
    assert.equal(volumes.uploads.at(-1), 4 * mib, 'the rest of it is enough');
    // and whoever removes it
    execFileSync('rm', [first]);
    assert.equal(await images.find(file), undefined);
    await isSame(await images.copy(file), file);
  });

  it('are refused when they are not what they should be, and leave nothing', async () => {
    const { path, database, volumes } = await aPool();
    const images = await copiedImages(database, volumes);
    const file = await aFile(mib);
    const other = { ...file, sha256: 'a'.repeat(64) };
    await assert.rejects(images.copy(other), { code: 'HYPERVISOR_FAILED', message: /damaged/ });
    assert.deepEqual(await readdir(path), []);
    assert.equal(images.usedBytes, 0);
  });

  it('fail, and nothing else does, when the image is deleted while they wait', async () => {
    const { path, database, volumes } = await aPool();
    const images = await copiedImages(database, volumes);
    const file = await aFile(mib);
    await rm(file.path);
    const text = 'its image was deleted before it was on host north';
    await assert.rejects(images.copy(file), { code: 'IMAGE_UNKNOWN', message: text });
    assert.deepEqual(await readdir(path), []);
    assert.equal(images.usedBytes, 0);
    let opened = 0;
    const open = (): Readable => Readable.from([Buffer.alloc(++opened)]);
    const { signal } = new AbortController();
    await assert.rejects(volumes.upload('none', open, 0, { signal }), {
      code: 'HYPERVISOR_FAILED',
    });
    assert.equal(opened, 0, 'no file is opened that nobody would close');
  });

  it('stay as long as nobody has found them wrong: machines may be upon them', async () => {
    const { path, database, volumes } = await aPool();
    const images = await copiedImages(database, volumes);
    const file = await aFile(mib);
    const whole = await images.copy(file);
    await utimes(whole, 1, 1);
    assert.equal(await images.find(file), undefined, 'it is to be read again');
    volumes.onDownload = () => {
      throw new GridError('HYPERVISOR_FAILED', 'Input/output error');
    };
    await assert.rejects(images.copy(file), { code: 'HYPERVISOR_FAILED' });
    assert.deepEqual(await readdir(path), [nameOf(file)]);
    const narrow = await copiedImages(database, volumes, { maxBytes: mib - 1 });
    await assert.rejects(narrow.copy(file), { code: 'STORAGE_FULL' });
    assert.deepEqual(await readdir(path), [nameOf(file)]);
    volumes.onDownload = () => undefined;
    assert.equal(await images.copy(file), whole);
    assert.deepEqual(volumes.uploads, [mib], 'reading was enough');
  });

  it('leave nothing when the disk of the host gets full meanwhile', async () => {
    const { path, database, volumes } = await aPool((mountPoint) => mountSmall(mountPoint, 128));
    const images = await copiedImages(database, volumes);
    const file = await aFile(40 * mib);
    const inside = (...args: string[]) => execFileSync('nsenter', ['-t', namespace, '-m', ...args]);
    const namespace = String(await daemon.processId());
    let filled = false;
    volumes.onBytes = (sent) => {
      if (filled || sent < 10 * mib) return;
      filled = true;
      const dd = `dd if=/dev/zero of=${path}/foreign bs=1M 2>/dev/null || true`;
      inside('sh', '-c', dd);
    };
    await assert.rejects(images.copy(file), { code: 'STORAGE_FULL', message: /host north/ });
    assert.equal(inside('ls', path).toString().trim(), 'foreign', 'only what is not ours');
    assert.equal(images.usedBytes, 0);
    // before anything is sent
    const sent = volumes.uploads.length;
    await assert.rejects(images.copy(file), { code: 'STORAGE_FULL', message: /pool lacks/ });
    assert.equal(volumes.uploads.length, sent);
  });

  async function mountSmall(mountPoint: string, sizeMiB: number): Promise<void> {
    const namespace = String(await daemon.processId());
    const mount = ['mount', '-t', 'tmpfs', '-o', `size=${sizeMiB}M`, 'none', mountPoint];
    execFileSync('nsenter', ['-t', namespace, '-m', ...mount]);
  }

  it('go when there is no room, the longest unused first, but none that is in use', async () => {
    const { database, volumes } = await aPool();
    const [a, b, c, d] = await Promise.all([aFile(mib), aFile(mib), aFile(mib), aFile(mib)]);
    const used = new Set([a.sha256]);
    let nowMs = 1_000;
    const images = await copiedImages(database, volumes, {
      ...{ maxBytes: 3 * mib, inUse: () => used },
      clock: { ...clock, now: () => (nowMs += 1) },
    });
    for (const file of [a, b, c]) await images.copy(file);
    await images.find(b); // a machine is made with it
    await images.copy(d);
    assert.deepEqual(
      [a, b, c, d].map(({ sha256 }) => images.has(sha256)),
      [true, true, false, true],
    );
    for (const { sha256 } of [b, d]) used.add(sha256);
    await assert.rejects(images.copy(c), { code: 'STORAGE_FULL', message: /1 MiB too little/ });
    assert.equal(images.count, 3);
    const names = await volumes.list(prefix);
    assert.deepEqual(names.sort(), [a, b, d].map(nameOf).sort());
  });

  it('stay when a machine is to be made of them while others go', async () => {
    const { database, volumes } = await aPool();
    const [a, b, large] = await Promise.all([aFile(mib), aFile(mib), aFile(2 * mib)]);
    const used = new Set<string>();
    const images = await copiedImages(database, volumes, {
      ...{ maxBytes: 2 * mib, inUse: () => new Set(used) },
    });
    for (const file of [a, b]) await images.copy(file);
    volumes.onRemove = () => void used.add(b.sha256);
    await assert.rejects(images.copy(large), { code: 'STORAGE_FULL', message: /1 MiB too little/ });
    assert.deepEqual(await volumes.list(prefix), [nameOf(b)]);
    assert.ok(images.has(b.sha256));
  });

  const removed = 'aaaaaaaa-1111-4222-8333-444444444444';
  const known = 'bbbbbbbb-1111-4222-8333-444444444444';
  const aStorage = (database: Database, pool: string): HostStorage =>
    new HostStorage({
      ...{ host: 'north', client, pool, installationId, maxBytes: 64 * mib, clock, log },
      store: copiesIn(createSettingsStore(database), 'north'),
    });

  it('have machines upon them, of which nothing is left in the end', async () => {
    const { pool, path, database, volumes } = await aPool();
    const storage = aStorage(database, pool);
    await storage.load();
    await storage.check();
    assert.equal(storage.status.problem, undefined);
    const source = join(daemon.stateDir, 'source.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', source, '16M']);
    const disk = await aFile(0, await readFile(source));
    const part = { sha256: disk.sha256, sizeBytes: disk.sizeBytes, virtualBytes: 16 * mib };
    const machine = aTargetSystem({
      image: { id: 'i', metadata: anImageMetadata({ format: 'qcow2' }), parts: { disk: part } },
      parameters: { cpus: 1, memoryMiB: 320, diskMiB: 32 },
    });
    const seed = (await aFile(0, Buffer.from('who it is'))).path;
    const files = { parts: { disk } };
    assert.deepEqual(await storage.missing(files), [disk]);
    assert.equal(storage.hasImage(machine.image), false);
    await storage.copy([disk]);
    assert.deepEqual(await storage.missing(files), []);
    assert.equal(storage.hasImage(machine.image), true);
    const paths = await storage.prepare(machine, files, seed);
    assert.deepEqual(await storage.prepare(machine, files, seed), paths, 'may be repeated');
    const info = execFileSync('qemu-img', ['info', '--output=json', paths.disk!]).toString();
    const overlay = JSON.parse(info) as Record<string, unknown>;
    assert.equal(overlay['virtual-size'], 32 * mib);
    assert.equal(overlay['backing-filename'], join(path, nameOf(disk)));
    assert.equal(overlay['backing-filename-format'], 'qcow2');
    assert.equal(await readFile(paths.seed!, 'utf8'), 'who it is');
    await writeFile(paths.console, `${'x'.repeat(100)}the end`);
    assert.equal((await storage.consoleTail(machine.id, 7)).toString(), 'the end');
    assert.equal((await storage.consoleTail(known, 7)).length, 0);
    await storage.remove(machine.id);
    await storage.remove(machine.id);
    assert.deepEqual(await volumes.list(''), [nameOf(disk)]);
  });

  it('have snapshots of machines upon them: copies of the disk, whole again after one was cut off', async () => {
    const { pool, database, volumes } = await aPool();
    const storage = aStorage(database, pool);
    await storage.load();
    await storage.check();
    const source = join(daemon.stateDir, 'kept.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', source, '16M']);
    const write = (disk: string, pattern: string): void =>
      void execFileSync('qemu-io', ['-f', 'qcow2', '-c', `write -q -P ${pattern} 0 1M`, disk]);
    const reads = (disk: string, pattern: string): void =>
      void execFileSync('qemu-io', ['-f', 'qcow2', '-c', `read -q -P ${pattern} 0 1M`, disk]);
    const disk = await aFile(0, await readFile(source));
    const part = { sha256: disk.sha256, sizeBytes: disk.sizeBytes, virtualBytes: 16 * mib };
    const machine = aTargetSystem({
      image: { id: 'i', metadata: anImageMetadata({ format: 'qcow2' }), parts: { disk: part } },
      parameters: { cpus: 1, memoryMiB: 320 },
    });
    await storage.copy([disk]);
    const overlay = (await storage.prepare(machine, { parts: { disk } })).disk!;
    write(overlay, '0x11');
    const { snapshots } = storage;
    const own = `${prefix}-vm-${machine.id}-`;
    await snapshots.begin(machine, 's');
    assert.equal(await snapshots.isSaved(machine, 's'), false);
    await writeFile(await snapshots.memoryOf(machine, 's'), 'LibvirtQemudPart and more');
    assert.equal(await snapshots.isSaved(machine, 's'), false, 'it is not whole');
    await writeFile(await snapshots.memoryOf(machine, 's'), 'LibvirtQemudSave and more');
    assert.equal(await snapshots.isSaved(machine, 's'), true);
    // of a host that failed in the middle
    await volumes.create({ name: `${own}snapshot-s-disk`, sizeBytes: 1, format: 'raw' });
    await snapshots.keepDisk(machine, 's');
    const kept = await volumes.find(`${own}snapshot-s-disk`);
    assert.equal(kept?.backingPath, (await volumes.find(nameOf(disk)))?.path, 'a layer, as it was');
    write(overlay, '0x22');
    reads(kept!.path, '0x11');
    await snapshots.layDisk(machine, 's');
    reads(overlay, '0x22');
    await snapshots.putDisk(machine, 's');
    reads(overlay, '0x11');
    const how = { taskId: 't', tell: () => Promise.resolve(), signal: AbortSignal.timeout(60_000) };
    {
      await using flat = await snapshots.flatten(machine, 's', how);
      const bytes = await buffer(flat.source());
      assert.equal(bytes.length, flat.sizeBytes);
      const alone = join(daemon.stateDir, 'flat.qcow2');
      await writeFile(alone, bytes);
      reads(alone, '0x11');
      const info = execFileSync('qemu-img', ['info', '--output=json', alone]).toString();
      assert.equal((JSON.parse(info) as Record<string, unknown>)['backing-filename'], undefined);
    }
    await assert.rejects(snapshots.requireRoom(machine, 10 ** 9), { code: 'STORAGE_FULL' });
    await snapshots.remove(machine, 's');
    const names = [`${own}console`, `${own}overlay`];
    assert.deepEqual((await volumes.list(own)).sort(), names);
  });

  it('are told from what is not ours: only what belongs to nobody goes', async () => {
    const { pool, database, volumes } = await aPool();
    const storage = aStorage(database, pool);
    await storage.load();
    await storage.check();
    const file = await aFile(mib);
    await storage.copy([file]);
    const lost = `${prefix}-image-${'b'.repeat(64)}`;
    const ours = [`${prefix}-vm-${removed}-overlay`, `${prefix}-vm-${removed}-console`, lost];
    const others = [
      'disk.qcow2',
      `${prefix}-vm-${known}-overlay`,
      `vsite-99999999-2222-4333-8444-555555555555-vm-${removed}-overlay`,
      `vsite-99999999-2222-4333-8444-555555555555-image-${'b'.repeat(64)}`,
    ];
    for (const name of [...ours, ...others])
      await volumes.create({ name, sizeBytes: 1, format: 'raw' });
    const isGone = (id: string) => Promise.resolve(id === removed);
    await storage.sweep(isGone, false);
    assert.ok((await volumes.list('')).includes(lost), 'a domain that is not known may use it');
    await storage.sweep(isGone, true);
    assert.deepEqual((await volumes.list('')).sort(), [...others, nameOf(file)].sort());
  });

  /** Of two hosts without machines, of which the other is away. */
  function comparisonOf(storage: HostStorage): Comparison {
    const hypervisor = (available: string[]) =>
      ({ available: () => available, list: () => Promise.resolve([]) }) as unknown as Hypervisor;
    const all: Host[] = [
      { ...plainHost, name: 'north', hypervisor: hypervisor(['qemu']), storage },
      { ...plainHost, name: 'south', hypervisor: hypervisor([]) },
    ];
    return new Comparison({
      systems: { hosts: new Hosts({ hosts: all, log }), clock, log } as TargetSystemsOptions,
      ...{ records: {} as unknown as SystemRecords, isKnown: () => false, started: () => [] },
      ...{ onDomain: () => undefined, require: () => Promise.resolve(), log },
      stopping: new AbortController().signal,
    });
  }

  it('are not to be had without the pool, which is told', async () => {
    const { database } = await aPool();
    const path = join(daemon.stateDir, 'nowhere');
    await mkdir(path);
    const storage = aStorage(database, 'nowhere');
    await storage.check();
    assert.equal(storage.status.problem, 'there is no storage pool nowhere');
    const xml = `<pool type='dir'><name>nowhere</name><target><path>${path}</path></target></pool>`;
    await client.call('storage_pool_create_xml', { xml, flags: 0 });
    await comparisonOf(storage).compare({ host: 'north', driver: 'qemu' });
    const isWell = () => storage.status.problem === undefined;
    await until('it is found, though another host is away', isWell);
  });
});
