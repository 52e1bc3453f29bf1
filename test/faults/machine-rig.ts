import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http2';
import { createServer as createNetServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { imageFormats, type ImageRecord, type PartName } from '#imagerepo/contract.js';
import { systemClock } from '#kernel/clock.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog, type Log } from '#kernel/log.js';
import type { Database } from '#kernel/persistence/database.js';
import type { Scope } from '#kernel/scope.js';
import { Lease } from '#xnjs/persistence/sql-lease.js';
import { createTargetStores } from '#xnjs/persistence/sql-target-store.js';
import { oneHost, type Hosts } from '#xnjs/vm/hosts/hosts.js';
import { LibvirtHypervisor, type LibvirtHypervisorOptions } from '#xnjs/vm/libvirt-hypervisor.js';
import { TargetSystems } from '#xnjs/vm/target-systems.js';
import { SparesConfig, WarmConfig } from '#xnjs/vm/tiers/config.js';
import type { TemplateStore } from '#xnjs/vm/tiers/template.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { anImageMetadata } from '../xnjs/vm/samples.js';
import { contentsOf } from './north.js';

/*
 * Target systems on real libvirt and QEMU whose machines have no system, to try what happens to machines. Their
 * agents are fakes beside them.
 */

/** A fake: answers as the agent of every machine, as far as it is asked here. */
export async function startAgents(scope: Scope, path: string): Promise<void> {
  const facts = {
    ...{ agentVersion: 'fake', tsiVersion: '11.2.0', kernel: '6', os: 'none', cores: 1 },
    bootId: randomUUID(),
    copies: true,
    ...{ memoryBytes: 16_777_216, uptimeMs: 1_000, agentMs: 900, identity: true, fileSystems: [] },
  };
  const agents = createServer((request, response) => {
    const isFacts = request.url === '/facts';
    request.resume();
    response.statusCode = isFacts || request.url === '/identity' ? 200 : 404;
    response.end(isFacts ? JSON.stringify(facts) : '');
  });
  const door = createDoor((socket) => agents.emit('connection', socket)).listen(path);
  await once(door, 'listening');
  scope.defer(() => door.close());
}

/** As agents do, what comes before HTTP/2 is passed over: they know no greetings, and answer none. */
function createDoor(enter: (socket: Socket) => void): Server {
  return createNetServer((socket) => {
    let seen = Buffer.alloc(0);
    const look = (chunk: Buffer): void => {
      seen = Buffer.concat([seen, chunk]);
      const begin = seen.indexOf('PRI * HTTP/2.0');
      if (begin < 0) return;
      socket.off('data', look).pause().unshift(seen.subarray(begin));
      enter(socket);
    };
    socket.on('data', look).on('error', () => undefined);
  });
}

/** The agent of a machine is where the test says. */
class Files extends Workspace {
  readonly #socketOf: (id: string) => string;

  constructor(directory: string, socketOf: (id: string) => string) {
    super(directory);
    this.#socketOf = socketOf;
  }

  override agentSocket({ id }: { id: string }): string {
    return this.#socketOf(id);
  }

  override async prepare(...args: Parameters<Workspace['prepare']>) {
    const paths = await super.prepare(...args);
    return { ...paths, agentSocket: join(this.directoryOf(args[0].id), 'run', 'unused.sock') };
  }
}

type Stores = ReturnType<typeof createTargetStores>;
export type MachineRigOptions = {
  readonly log?: Log;
  readonly database: Database;
  readonly uri: string;
  /** Of the target systems' files. */
  readonly directory: string;
  /** A part of an image, by the image's name; images are disks, or kernels. */
  readonly part: (image: string, name: PartName) => string;
  readonly format?: 'qcow2' | 'kernel';
  readonly socketOf: (id: string) => string;
  readonly hypervisor?: (options: LibvirtHypervisorOptions) => LibvirtHypervisor;
  /** Absent: this one. */
  readonly hosts?: (
    local: LibvirtHypervisor,
    options: LibvirtHypervisorOptions,
  ) => Hosts | Promise<Hosts>;
  readonly stores?: (plain: Stores) => Stores;
  /** How often hypervisors are compared with the records, and consoles looked at. */
  readonly compareMs?: number;
  /** Numbers of spares by image. */
  readonly spares?: Readonly<Record<string, number>>;
  /** Saved memory. */
  readonly warm?: { readonly store: TemplateStore; readonly maxImages: number };
};

const installationId = '11111111-2222-4333-8444-555555555555';

export async function startMachines(
  scope: Scope,
  { database, uri, directory, part, socketOf, log = silentLog, ...options }: MachineRigOptions,
): Promise<TargetSystems> {
  const common = { clock: systemClock, log };
  const lease = scope.use(await Lease.take({ database, name: 'xnjs', ...common }));
  const qemu = scope.use(await LibvirtClient.connect({ uri, log, callTimeoutMs: 60_000 }));
  const probe = scope.use(await LibvirtClient.connect({ uri, log, callTimeoutMs: 60_000 }));
  const ofLibvirt = { clients: { qemu }, probes: { qemu: probe }, installationId, ...common };
  const metadata = anImageMetadata({
    format: options.format ?? 'qcow2',
    requirements: {
      cpus: { min: 1, default: 1, max: 1 },
      memoryMiB: { min: 16, default: 16, max: 64 },
    },
  });
  const partsOf = async (image: string): Promise<ImageRecord['parts']> => {
    const names = imageFormats[metadata.format].parts;
    const rows = names.map(async (name) => [name, await contentsOf(part(image, name))] as const);
    return Object.fromEntries(await Promise.all(rows));
  };
  const { spares, stores: gated = (plain: Stores) => plain } = options;
  const stores = gated(createTargetStores(database, undefined, lease));
  const hypervisor = options.hypervisor?.(ofLibvirt) ?? new LibvirtHypervisor(ofLibvirt);
  const systems = new TargetSystems({
    ...{ ...common, installationId, lease },
    store: stores.targets,
    hosts: (await options.hosts?.(hypervisor, ofLibvirt)) ?? oneHost(hypervisor, log),
    images: {
      find: async (id) => ({
        ...{ id, owner: 'CN=Creator', state: 'PUBLISHED', created: '' },
        ...{ metadata: { ...metadata, name: id }, parts: await partsOf(id) },
      }),
      isHere: () => Promise.resolve(true),
      search: () => Promise.resolve([]), // here all name their image
      fetch: ({ id }, name) => Promise.resolve(part(id, name)),
    },
    workspace: new Files(directory, socketOf),
    ...{ bootTimeoutMs: 60_000, heartbeatMs: 1_000 },
    ...(options.compareMs !== undefined && { compareMs: options.compareMs }),
    limits: { cpus: 1, memoryMiB: 64, perUser: 100 },
    ...(spares && {
      spares: {
        store: stores.spares,
        config: SparesConfig.parse({ images: spares, readAs: 'CN=Reader' }),
        availableMiB: () => 100_000,
      },
    }),
    ...(options.warm && {
      warm: {
        store: options.warm.store,
        config: WarmConfig.parse({ maxImages: options.warm.maxImages }),
        availableMiB: () => 100_000,
      },
    }),
  });
  await systems.start();
  return scope.use(systems);
}
