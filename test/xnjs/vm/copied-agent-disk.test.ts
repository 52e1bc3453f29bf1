import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { it } from 'node:test';
import { systemClock as clock } from '#kernel/clock.js';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { PoolVolumes } from '#kernel/libvirt/pool-volumes.js';
import { silentLog as log } from '#kernel/log.js';
import type { Database } from '#kernel/persistence/database.js';
import { Scope } from '#kernel/scope.js';
import { createSettingsStore } from '#xnjs/persistence/settings-store.js';
import { adopted } from '#xnjs/vm/adopted.js';
import { markXml, readMark } from '#xnjs/vm/domain-mark.js';
import type { Host } from '#xnjs/vm/hosts/host.js';
import { Hosts } from '#xnjs/vm/hosts/hosts.js';
import { copiesIn } from '#xnjs/vm/hosts/open-hosts.js';
import type { ImageFile } from '#xnjs/vm/hosts/storage/copied-images.js';
import { followRecords } from '#xnjs/vm/hosts/storage/follow-records.js';
import { digestOf, HostStorage } from '#xnjs/vm/hosts/storage/host-storage.js';
import type { Hypervisor } from '#xnjs/vm/hypervisor.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import type { TargetSystemsOptions } from '#xnjs/vm/target-systems-options.js';
import { Starting } from '#xnjs/vm/tiers/starting.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { aDaemon, withoutLibvirtd } from '../../kernel/libvirt/daemon.js';
import { scratch, until } from '../job/rig.js';
import { installationId, openSettings, prefix } from './copied-images-rig.js';
import { anImageMetadata, aTargetSystem, plainHost } from './samples.js';

const mib = 1024 ** 2;
const pool = 'agents';

/** A host without machines: what is started there is told, and nothing else. */
function aHost(storage: HostStorage, started: string[] = []): Hosts {
  const hypervisor = {
    available: () => ['qemu'],
    start: (_: string, id: string, xml: string) => {
      started.push(`${id} ${xml}`);
      return Promise.resolve({ definedMs: clock.now() });
    },
  } as unknown as Hypervisor; // the calls that are made are above
  const all: Host[] = [{ ...plainHost, name: 'north', hypervisor, storage }];
  return new Hosts({ hosts: all, log });
}

/** As a server has it that was started on this database. */
async function aStorage(client: LibvirtClient, database: Database): Promise<HostStorage> {
  const storage = new HostStorage({
    ...{ host: 'north', client, pool, installationId, maxBytes: 2 * mib, clock, log },
    store: copiesIn(createSettingsStore(database), 'north'),
  });
  await storage.load();
  await storage.check();
  return storage;
}

async function aFile(directory: string, data: Buffer): Promise<ImageFile> {
  const path = join(directory, `file-${randomBytes(4).toString('hex')}`);
  writeFileSync(path, data);
  return { path, sizeBytes: data.length, sha256: await digestOf(path) };
}

const skip = withoutLibvirtd;
it(
  'the disk with our agent stays where machines have it, in any state and for any server',
  {
    ...{ skip, timeout: 120_000 },
  },
  async () => {
    await using scope = new Scope();
    const daemon = await aDaemon();
    scope.defer(() => daemon[Symbol.asyncDispose]());
    const client = scope.use(await daemon.connect('qemu', { callTimeoutMs: 60_000 }));
    const path = join(daemon.stateDir, pool);
    mkdirSync(path);
    const xml = `<pool type='dir'><name>${pool}</name><target><path>${path}</path></target></pool>`;
    await client.call('storage_pool_create_xml', { xml, flags: 0 });
    const directory = scratch(scope);
    const database = await openSettings(scope, directory);
    const agent = await aFile(directory, randomBytes(mib));
    const disk = join(directory, 'disk.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', disk, '1M']);
    const { size: sizeBytes } = statSync(disk);

    // a machine is begun, by a server that then goes
    const contextualisation = { nocloud: true, agent: true };
    const metadata = anImageMetadata({ format: 'qcow2', contextualisation });
    const parts = { disk: { sha256: await digestOf(disk), sizeBytes } };
    let record = aTargetSystem({ host: 'north', image: { id: 'i', metadata, parts } });
    const storage = await aStorage(client, database);
    const started: string[] = [];
    let isCalledFor = false;
    const starting = new Starting({
      ...({
        ...{ hosts: aHost(storage, started), clock, log, installationId, agentDisk: agent.path },
        images: { isHere: () => Promise.resolve(true), fetch: () => Promise.resolve(disk) },
        workspace: new Workspace(directory),
      } as unknown as TargetSystemsOptions), // what is asked of them is above
      records: {
        ...{ get: () => record, find: () => record },
        save: (next: TargetSystem) => Promise.resolve(void (record = next)),
        show: (next: TargetSystem) => void (record = next),
        queue: (_: string, work: () => Promise<never>) => work(),
        schedule: () => void (isCalledFor = true),
      },
      files: { remove: () => Promise.resolve() },
      ...{ tiers: { spares: undefined, templates: undefined }, require: () => Promise.resolve() },
      stopping: new AbortController().signal,
    });
    assert.equal(await starting.begin(record), undefined);
    assert.deepEqual(record.agentDisks, [agent.sha256], 'stored before it is there');
    await until('all of it is there', () => isCalledFor);
    record = (await starting.begin(record))!;
    assert.deepEqual(record.agentDisks, [agent.sha256]);
    assert.match(started.join(), new RegExp(`${record.id} .*${prefix}-image-${agent.sha256}`, 's'));

    // another server, which has made no machine since it was started, needs room
    const other = await aFile(directory, randomBytes(mib + mib / 2));
    const mark = readMark(markXml(record, installationId, 1));
    const parked = { ...record, state: 'SUSPENDED' } as const;
    for (const known of [parked, adopted(mark!.record!, { host: 'north' }, 0)]) {
      const next = await aStorage(client, database);
      const require = () => Promise.resolve();
      followRecords(aHost(next), { records: () => [known], require });
      await assert.rejects(next.copy([other]), { code: 'STORAGE_FULL' }, known.state);
    }
    const volumes = new PoolVolumes(client, pool);
    assert.ok(await volumes.find(`${prefix}-image-${agent.sha256}`));
    const last = await aStorage(client, database);
    await last.copy([other]); // nobody has it any more
    assert.equal(await volumes.find(`${prefix}-image-${agent.sha256}`), undefined);
  },
);
