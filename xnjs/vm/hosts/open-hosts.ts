import type { Clock } from '#kernel/clock.js';
import { LibvirtClient, type LibvirtClientOptions } from '#kernel/libvirt/client.js';
import type { EventName } from '#kernel/libvirt/events.js';
import { timeLibvirt } from '#kernel/libvirt/call-metrics.js';
import type { Log } from '#kernel/log.js';
import type { Metrics } from '#kernel/metrics.js';
import type { Scope } from '#kernel/scope.js';
import type { XnjsConfig } from '../../config.js';
import type { SettingsStore } from '../../persistence/settings-store.js';
import { LibvirtHypervisor } from '../libvirt-hypervisor.js';
import type { Driver } from '../target-system.js';
import type { HostConfig } from './config.js';
import { z } from 'zod';
import { localHost, type Host, type Room } from './host.js';
import { Hosts, type DrainStore } from './hosts.js';
import type { CopyStore } from './storage/copied-images.js';
import { HostStorage } from './storage/host-storage.js';

type Config = Omit<XnjsConfig['hypervisor'], 'networks'>;
type Clients = Readonly<Partial<Record<Driver, LibvirtClient>>>;
type HostsDeps = {
  readonly installationId: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly scope: Scope;
  readonly settings: SettingsStore;
  readonly metrics?: Metrics | undefined;
};

type Deps = HostsDeps & Pick<LibvirtClientOptions, 'onCall'>;

export type OpenHosts = {
  readonly hosts: Hosts;
  /** By host. */
  readonly clients: ReadonlyMap<string, Clients>;
  readonly connections: () => Record<string, 'OK' | 'DOWN'>;
};

/** Connects to the libvirts of all hosts. One that does not answer now may do so later. */
export async function openHosts(config: Config, given: HostsDeps): Promise<OpenHosts> {
  const { scope, log, settings, metrics } = given;
  const onCall = metrics && timeLibvirt(metrics);
  const deps: Deps = { ...given, ...(onCall && { onCall }) };
  const own = config.hosts.find(({ name }) => name === localHost);
  const others = config.hosts.filter(({ name }) => name !== localHost);
  const opened = await Promise.all([
    openLocal(config, own, others.length > 0, deps),
    ...others.map((host) => openRemote(host, deps)),
  ]);
  const drains = drainsIn(settings);
  const hosts = scope.use(new Hosts({ hosts: opened.map(({ host }) => host), drains, log }));
  await hosts.start();
  return {
    hosts,
    clients: new Map(opened.map(({ host, clients }) => [host.name, clients])),
    connections: () =>
      Object.fromEntries(opened.flatMap(({ host, clients }) => statusOf(host.name, clients))),
  };
}

type Opened = { readonly host: Host; readonly clients: Clients };

async function openLocal(
  { machines, acceleration, containers }: Config,
  host: HostConfig | undefined,
  hasOthers: boolean,
  deps: Deps,
): Promise<Opened> {
  const connect = async (events?: readonly EventName[]): Promise<Clients> => {
    const [forMachines, forContainers] = await Promise.all([
      open(machines, deps, events),
      open(containers, deps, events),
    ]);
    return {
      ...(forMachines && { [acceleration]: forMachines }),
      ...(forContainers && { lxc: forContainers }),
    };
  };
  const clients = await connect();
  const hypervisor = adapt(clients, await connect([]), deps);
  const { capacity = {}, reserved = {}, labels = [], drain = false, pinning } = host ?? {};
  // alone and without a word of its capacity it takes what it is asked for
  const isBounded = hasOthers || Object.values(capacity).some((most) => most !== undefined);
  const client = clients[acceleration] ?? clients.lxc;
  return {
    clients,
    host: {
      ...{
        name: localHost,
        hypervisor,
        drivers: Object.keys(clients) as Driver[], // keys of the type
        labels,
        drain,
        capacity,
        reserved,
        pinning,
      },
      ...(isBounded && client && { measure: () => measure(client) }),
    },
  };
}

async function openRemote(config: HostConfig, deps: Deps): Promise<Opened> {
  const { name, uri, acceleration = 'qemu', labels, capacity, reserved, drain, pinning } = config;
  const [client, probe] = [await open(uri, deps), await open(uri, deps, [])];
  if (!client || !probe) throw new TypeError(`the configuration let a host without a URI pass`);
  const clients = { [acceleration]: client };
  const hypervisor = adapt(clients, { [acceleration]: probe }, deps);
  const storage = openStorage(config, client, deps);
  return {
    clients,
    host: {
      ...{ name, hypervisor, drivers: [acceleration], labels, drain, capacity, reserved, pinning },
      measure: () => measure(client),
      ...(storage && { storage }),
    },
  };
}

/** Of a host that has none of our files. */
function openStorage(
  { name: host, storage }: HostConfig,
  client: LibvirtClient,
  { installationId, settings, clock, log, scope }: Deps,
): HostStorage | undefined {
  if (!storage) return undefined;
  const { pool, imagesMiB } = storage;
  const common = { host, client, pool, installationId, clock, log };
  const store = copiesIn(settings, host);
  return scope.use(new HostStorage({ ...common, maxBytes: imagesMiB * 1024 ** 2, store }));
}

function adapt(clients: Clients, probes: Clients, deps: Deps): LibvirtHypervisor {
  const { installationId, clock, log } = deps;
  return new LibvirtHypervisor({ clients, probes, installationId, clock, log });
}

/** A hypervisor that does not answer now may do so later: the server starts all the same. */
async function open(
  uri: string | undefined,
  { log, scope, onCall }: Deps,
  events?: readonly EventName[],
): Promise<LibvirtClient | undefined> {
  if (uri === undefined) return undefined;
  const client = scope.use(
    new LibvirtClient({ uri, log, ...(onCall && { onCall }), ...(events && { events }) }),
  );
  client.start();
  await client.ready(AbortSignal.timeout(5_000)).catch(() => undefined);
  return client;
}

async function measure(client: LibvirtClient): Promise<Room> {
  const { cpus, memory } = await client.call('node_get_info', {}, { timeoutMs: 5_000 });
  return { cores: cpus, memoryMiB: Number(memory / 1024n) };
}

function statusOf(host: string, clients: Clients): [string, 'OK' | 'DOWN'][] {
  const where = host === localHost ? '' : ` on ${host}`;
  return Object.entries(clients).map(([driver, { connected }]) => [
    `libvirt ${driver}${where}`,
    connected ? 'OK' : 'DOWN',
  ]);
}

const setting = 'drainedHosts';
const Drained = z.record(z.string(), z.boolean());

function drainsIn(settings: SettingsStore): DrainStore {
  return {
    get: async () => Drained.safeParse(await settings.get(setting)).data ?? {},
    set: async (drained) => await settings.set(setting, drained),
  };
}

const CopiesOfHost = z.record(
  z.string().regex(/^[0-9a-f]{64}$/),
  z.object({ sizeBytes: z.number(), usedMs: z.number(), changed: z.string().optional() }),
);

/** What is known of copies on a host, kept beyond a restart. */
export function copiesIn(settings: SettingsStore, host: string): CopyStore {
  const name = `copiedImages.${host}`;
  return {
    // what is not to be read is found again on the host
    get: async () => CopiesOfHost.safeParse(await settings.get(name)).data ?? {},
    set: async (copies) => await settings.set(name, copies),
  };
}
