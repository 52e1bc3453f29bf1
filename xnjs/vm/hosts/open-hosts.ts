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
import { readCapabilities, type DriverCapabilities } from './capabilities.js';
import type { HostConfig } from './config.js';
import { z } from 'zod';
import { localHost, type Host, type Room } from './host.js';
import { Hosts, type DrainStore, type LossStore } from './hosts.js';
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
  /** How soon a silent libvirt is noticed, and one that is back. */
  readonly pace?: Pick<LibvirtClientOptions, 'keepAlive' | 'connectTimeoutMs' | 'reconnect'>;
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
  const said = { drains: drainsIn(settings), losses: lossesIn(settings) };
  const hosts = scope.use(new Hosts({ hosts: opened.map(({ host }) => host), ...said, log }));
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
  const own = { uri: machines, acceleration, containers };
  const [clients, probes] = await connectTwice(own, deps);
  const hypervisor = adapt(clients, probes, deps);
  const { capacity = {}, reserved = {}, labels = [], drain = false, pinning } = host ?? {};
  // alone and without a word of its capacity it takes what it is asked for
  const isBounded = hasOthers || Object.values(capacity).some((most) => most !== undefined);
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
      learn: (driver) => learn(clients, driver),
      ...(isBounded && Object.keys(clients).length > 0 && { measure: () => measure(clients) }),
    },
  };
}

async function openRemote(config: HostConfig, deps: Deps): Promise<Opened> {
  const { name, labels, capacity, reserved, drain, pinning } = config;
  const [clients, probes] = await connectTwice(config, deps);
  const hypervisor = adapt(clients, probes, deps);
  const storage = openStorage(config, Object.values(clients)[0], deps);
  return {
    clients,
    host: {
      ...{ name, hypervisor, labels, capacity, reserved, drain, pinning },
      drivers: Object.keys(clients) as Driver[], // keys of the type
      measure: () => measure(clients),
      learn: (driver) => learn(clients, driver),
      ...(storage && { storage }),
    },
  };
}

type Where = Pick<HostConfig, 'uri' | 'containers' | 'acceleration'>;

/** For work, and for looks that must not wait behind it. */
async function connectTwice(where: Where, deps: Deps): Promise<[work: Clients, looks: Clients]> {
  return await Promise.all([connect(where, deps), connect(where, deps, [])]);
}

async function connect(
  { uri, containers, acceleration = 'qemu' }: Where,
  deps: Deps,
  events?: readonly EventName[],
): Promise<Clients> {
  const [forMachines, forContainers] = await Promise.all([
    open(uri, deps, events),
    open(containers, deps, events),
  ]);
  return {
    ...(forMachines && { [acceleration]: forMachines }),
    ...(forContainers && { lxc: forContainers }),
  };
}

/** Of a host that has none of our files. */
function openStorage(
  { name: host, storage }: HostConfig,
  client: LibvirtClient | undefined,
  { installationId, settings, clock, log, scope }: Deps,
): HostStorage | undefined {
  if (!storage || !client) return undefined;
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
  { log, scope, onCall, pace }: Deps,
  events?: readonly EventName[],
): Promise<LibvirtClient | undefined> {
  if (uri === undefined) return undefined;
  const client = scope.use(
    new LibvirtClient({ uri, log, ...pace, ...(onCall && { onCall }), ...(events && { events }) }),
  );
  client.start();
  await client.ready(AbortSignal.timeout(pace?.connectTimeoutMs ?? 5_000)).catch(() => undefined);
  return client;
}

/** All its drivers share what it has: one that answers can tell. */
async function measure(clients: Clients): Promise<Room> {
  const all = Object.values(clients);
  const client = all.find(({ connected }) => connected) ?? all[0];
  if (!client) throw new TypeError('a host without a driver is not measured');
  const { cpus, memory } = await client.call('node_get_info', {}, { timeoutMs: 5_000 });
  return { cores: cpus, memoryMiB: Number(memory / 1024n) };
}

async function learn(clients: Clients, driver: Driver): Promise<DriverCapabilities> {
  const client = clients[driver];
  if (!client) throw new TypeError(`${driver} is no driver of that host`);
  return await readCapabilities(client, driver);
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

const lostHosts = 'lostHosts';
const Lost = z.record(z.string(), z.object({ by: z.string(), atMs: z.number() }));

/** What cannot be read ends the start: a host that was declared lost must not count as another. */
export function lossesIn(settings: SettingsStore): LossStore {
  return {
    get: async () => Lost.parse((await settings.get(lostHosts)) ?? {}),
    set: async (lost) => await settings.set(lostHosts, lost),
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
