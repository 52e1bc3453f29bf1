import type { Duplex, Readable } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { hasRefused, isUnknownDomain } from '#kernel/libvirt/errors.js';
import type { Domain } from '#kernel/libvirt/procedures.js';
import type { Log } from '#kernel/log.js';
import { markXml, metadataNamespace, readMark, type DomainMark } from './domain-mark.js';
import { statsFlags, statsGroups, toSample } from './domain-stats.js';
import type {
  DomainLook,
  DomainView,
  Hypervisor,
  NetworkDefinition,
  OwnDomain,
  SavedMachine,
} from './hypervisor.js';
import { setControls } from './libvirt-controls.js';
import { inBatches } from './in-batches.js';
import { byId, lookAtContainers, statesOfMachines, toState, viewOfEvent } from './libvirt-look.js';
import {
  endMachine,
  resumeMachine,
  saveMemoryTo,
  startFromMemory,
  startParked,
} from './libvirt-memory.js';
import { ensureNetwork } from './libvirt-networks.js';
import { openChannel, openConsole, screenshot } from './libvirt-streams.js';
import { usageOfContainers } from './libvirt-usage.js';
import { MachineLooks, type LookTimes } from './machine-looks.js';
import type { ChangeableName, Driver, TargetSystem } from './target-system.js';
import type { UsageSample } from './usage.js';

export type LibvirtHypervisorOptions = {
  /** One connection per driver; `qemu` and `kvm` may share one. */
  readonly clients: Partial<Readonly<Record<Driver, LibvirtClient>>>;
  /** For calls that may get stuck in a machine that hangs; absent: the others. */
  readonly probes?: Partial<Readonly<Record<Driver, LibvirtClient>>>;
  readonly installationId: string;
  /** How long machines are waited for that may hang; absent: as is usual. */
  readonly lookTimes?: LookTimes;
  readonly clock: Clock;
  readonly log: Log;
};

const domainPrefix = 'vsite-';
const metadataElement = 2;
/** Managed save images and snapshot metadata go with the domain. */
const undefineFlags = 3;
/** Sources of addresses: the network's DHCP server, and whom the host has talked to. */
const addressSources = { leases: 0, neighbours: 2 } as const;
/** Whether a change counts for the machine that runs, for when it is started again. */
const live = 1;
const config = 2;
/** A machine's memory goes to or comes from the disk. */
const saveTimeoutMs = 120_000;
/** They are read again soon. */
const statsTimeoutMs = 5_000;

/** {@link Hypervisor} on libvirt's RPC protocol. */
export class LibvirtHypervisor implements Hypervisor {
  readonly #options: LibvirtHypervisorOptions;
  readonly #log: Log;
  /** One for each connection: machines that hang keep the daemon behind it busy. */
  readonly #looks = new Map<LibvirtClient, MachineLooks>();

  constructor(options: LibvirtHypervisorOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm.libvirt' });
  }

  available(): readonly Driver[] {
    return this.#clients()
      .filter(([, client]) => client.connected)
      .map(([driver]) => driver);
  }

  async start(driver: Driver, id: string, xml: string): Promise<{ definedMs: number }> {
    const client = this.#client(driver);
    const known = await this.#lookUp(client, id);
    const dom = known ?? (await client.call('domain_define_xml_flags', { xml, flags: 0 })).dom;
    const definedMs = this.#options.clock.now();
    try {
      await client.call('domain_create_with_flags', { dom, flags: 0 });
    } catch (error) {
      if (!hasRefused(error, 'operationInvalid')) throw error; // it runs already
    }
    return { definedMs };
  }

  async saveMemory(driver: Driver, id: string, path: string): Promise<void> {
    const client = this.#client(driver);
    const { dom } = await client.call('domain_lookup_by_uuid', { uuid: id });
    if (!(await saveMemoryTo(client, dom, path)))
      throw new GridError('HYPERVISOR_FAILED', 'the machine stopped before its memory was saved');
    await client.call('domain_undefine_flags', { dom, flags: 0 });
  }

  async restoreMemory(
    driver: Driver,
    id: string,
    { memory, ...how }: SavedMachine,
  ): Promise<{ definedMs: number }> {
    let definedMs = this.#options.clock.now();
    const onDefined = (): void => void (definedMs = this.#options.clock.now());
    await startFromMemory(this.#client(driver), id, memory, { ...how, onDefined });
    return { definedMs };
  }

  async describe(driver: Driver): Promise<string> {
    const client = this.#client(driver);
    const [{ hv_ver }, { lib_ver }, { capabilities }] = await Promise.all([
      client.call('connect_get_version', {}),
      client.call('connect_get_lib_version', {}),
      client.call('connect_get_capabilities', {}),
    ]);
    const [cpu = ''] = /<cpu>[\s\S]*?<\/cpu>/.exec(capabilities) ?? [];
    // what is measured anew each time says nothing of the model
    return `${hv_ver} ${lib_ver} ${cpu.replace(/<counter[^>]*>/g, '')}`;
  }

  async find(driver: Driver, id: string): Promise<DomainView | undefined> {
    const client = this.#client(driver);
    const dom = await this.#lookUp(client, id);
    if (!dom) return undefined;
    const view = await this.#view(client, dom);
    if (view.state !== 'stopped' || driver === 'lxc') return view;
    return { ...view, isSaved: await this.#isSaved(client, dom) };
  }

  async save(driver: Driver, id: string): Promise<boolean> {
    const client = this.#client(driver);
    const dom = await this.#lookUp(client, id);
    if (!dom) return false;
    if ((await this.#view(client, dom)).state !== 'stopped')
      try {
        const options = { timeoutMs: saveTimeoutMs };
        await client.call('domain_managed_save', { dom, flags: 0 }, options);
      } catch (error) {
        if (hasRefused(error, 'operationTimeout'))
          throw new GridError('HYPERVISOR_UNAVAILABLE', errorText(error), {}, { cause: error });
        // it has stopped; also by an order before, whose answer was lost
        if (!hasRefused(error, 'operationInvalid') && !(await this.#isSaved(client, dom)))
          throw error;
      }
    return await this.#isSaved(client, dom);
  }

  async restore(driver: Driver, id: string): Promise<boolean> {
    const client = this.#client(driver);
    const dom = await this.#lookUp(client, id);
    if (!dom || !(await this.#isSaved(client, dom))) return false;
    try {
      await startParked(client, dom);
    } catch (error) {
      if (!hasRefused(error, 'operationInvalid')) throw error; // it runs already
    }
    return true;
  }

  async saveMemoryTo(driver: Driver, id: string, path: string): Promise<boolean> {
    const client = this.#client(driver);
    const dom = await this.#lookUp(client, id);
    return dom !== undefined && (await saveMemoryTo(client, dom, path));
  }

  async startFromMemory(driver: Driver, id: string, path: string, park: boolean): Promise<void> {
    await startFromMemory(this.#client(driver), id, path, { park, isHalted: true });
  }

  async resume(driver: Driver, id: string): Promise<void> {
    await resumeMachine(this.#client(driver), id);
  }

  async end(driver: Driver, id: string): Promise<void> {
    await endMachine(this.#client(driver), id);
  }

  async removeOlder({ driver, id, generation = 1 }: TargetSystem): Promise<void> {
    const client = this.#client(driver);
    const dom = await this.#lookUp(client, id);
    const mark = dom && (await this.#markOf(client, dom));
    if (mark && mark.generation < generation) await this.remove(driver, id);
  }

  async setControls(
    system: Pick<TargetSystem, 'id' | 'driver' | 'parameters' | 'card' | 'image' | 'volumes'>,
    names: readonly ChangeableName[],
  ): Promise<boolean> {
    const client = this.#client(system.driver);
    const dom = await this.#lookUp(client, system.id);
    if (!dom || dom.id === -1) return false;
    await setControls(client, dom, system, names);
    return true;
  }

  async usage(driver: Driver, ids: readonly string[]): Promise<UsageSample[]> {
    const client = this.#probe(driver);
    if (this.#looks.get(client)?.isFull)
      throw new GridError('HYPERVISOR_UNAVAILABLE', 'too many machines hang to ask for more');
    const options = { timeoutMs: statsTimeoutMs };
    return await inBatches(ids, async (some) => {
      if (driver === 'lxc') return await usageOfContainers(client, some, statsTimeoutMs);
      const args = { doms: some.map(byId), stats: statsGroups, flags: statsFlags };
      const { retStats } = await client.call('connect_get_all_domain_stats', args, options);
      return retStats.flatMap(({ dom, params }) => toSample(dom, params) ?? []);
    });
  }

  async remove(driver: Driver, id: string): Promise<void> {
    const client = this.#client(driver);
    const dom = await this.#lookUp(client, id);
    if (!dom) return;
    try {
      await client.call('domain_destroy_flags', { dom, flags: 0 });
    } catch (error) {
      if (!hasRefused(error, 'operationInvalid') && !isUnknownDomain(error)) throw error; // it has stopped
    }
    try {
      const flags = driver === 'lxc' ? 0 : undefineFlags;
      await client.call('domain_undefine_flags', { dom, flags });
    } catch (error) {
      if (!isUnknownDomain(error)) throw error;
    }
  }

  async look(
    driver: Driver,
    ids?: readonly string[],
    isDoubtful?: (id: string) => boolean,
  ): Promise<DomainLook[]> {
    const client = this.#probe(driver);
    const domains = ids?.map(byId) ?? (await ownDomains(client, 0));
    if (driver === 'lxc') return await lookAtContainers(client, domains);
    const looks = this.#looks.get(client) ?? new MachineLooks(client, this.#options.lookTimes);
    this.#looks.set(client, looks);
    return await looks.look(domains, isDoubtful);
  }

  async list(driver: Driver, isKnown: (id: string) => boolean = () => false): Promise<OwnDomain[]> {
    const client = this.#client(driver);
    const domains = await ownDomains(client, 0);
    await turn(); // they were read in one piece
    const marks = new Map<string, DomainMark>();
    const ours: Domain[] = [];
    for (const dom of domains) {
      const known = isKnown(dom.uuid);
      const mark = known ? undefined : await this.#markOf(client, dom);
      if (mark) marks.set(dom.uuid, mark);
      if (mark || known) ours.push(dom);
    }
    const views = await (driver === 'lxc' ? lookAtContainers : statesOfMachines)(client, ours);
    return views.map((view) => {
      const mark = marks.get(view.id);
      return { ...view, ...(mark && { mark }) };
    });
  }

  async mark(system: TargetSystem, epoch: number): Promise<void> {
    const client = this.#client(system.driver);
    const dom = await this.#lookUp(client, system.id);
    if (!dom) return;
    await client.call('domain_set_metadata', {
      ...{ dom, type: metadataElement, key: 'vsite', uri: metadataNamespace },
      metadata: markXml(system, this.#options.installationId, epoch),
      flags: dom.id === -1 ? config : config | live,
    });
  }

  async openChannel(driver: Driver, id: string, portName: string): Promise<Duplex> {
    return await openChannel(this.#client(driver), driver, id, portName);
  }

  async openConsole(driver: Driver, id: string, force: boolean): Promise<Duplex> {
    return await openConsole(this.#client(driver), id, force);
  }

  async screenshot(driver: Driver, id: string): Promise<Readable> {
    return await screenshot(this.#client(driver), id);
  }

  async ensureNetwork(driver: Driver, network: NetworkDefinition): Promise<void> {
    await ensureNetwork(this.#client(driver), network);
  }

  async addresses(
    driver: Driver,
    id: string,
    source: keyof typeof addressSources = 'leases',
  ): Promise<readonly string[]> {
    const client = this.#client(driver);
    const dom = await this.#lookUp(client, id);
    if (!dom) return [];
    const call = { dom, source: addressSources[source], flags: 0 };
    const { ifaces } = await client.call('domain_interface_addresses', call);
    return ifaces.flatMap(({ addrs }) => addrs.map(({ addr }) => addr));
  }

  onDomain(listener: (domain: DomainView) => void): () => void {
    const ends = this.#distinctClients().map((client) =>
      client.onLifecycle((event) => {
        const domain = isNamedAsOurs(event.dom) ? viewOfEvent(event) : undefined;
        if (domain) listener(domain);
      }),
    );
    return () => ends.forEach((end) => end());
  }

  onAvailable(listener: (driver: Driver) => void): () => void {
    const ends = this.#clients().map(([driver, client]) =>
      client.onConnectionChange((change) => {
        if (change.state === 'up') listener(driver);
        else this.#log.warn({ driver, err: change.cause }, 'the hypervisor does not answer');
      }),
    );
    return () => ends.forEach((end) => end());
  }

  #clients(): [Driver, LibvirtClient][] {
    return Object.entries(this.#options.clients) as [Driver, LibvirtClient][]; // keys are those of the type
  }

  #distinctClients(): LibvirtClient[] {
    return [...new Set(Object.values(this.#options.clients))];
  }

  #client(driver: Driver): LibvirtClient {
    const client = this.#options.clients[driver];
    if (client) return client;
    throw new GridError('HYPERVISOR_UNAVAILABLE', `no hypervisor is configured for ${driver}`);
  }

  #probe(driver: Driver): LibvirtClient {
    return this.#options.probes?.[driver] ?? this.#client(driver);
  }

  async #lookUp(client: LibvirtClient, id: string): Promise<Domain | undefined> {
    try {
      return (await client.call('domain_lookup_by_uuid', { uuid: id })).dom;
    } catch (error) {
      if (isUnknownDomain(error)) return undefined;
      throw error;
    }
  }

  /** Domains of other installations on the same host are none of our business. */
  async #markOf(client: LibvirtClient, dom: Domain): Promise<DomainMark | undefined> {
    const about = { dom, type: metadataElement, uri: metadataNamespace, flags: 0 };
    try {
      const mark = readMark((await client.call('domain_get_metadata', about)).metadata);
      return mark?.installation === this.#options.installationId ? mark : undefined;
    } catch (error) {
      if (hasRefused(error, 'noMetadata') || isUnknownDomain(error)) return undefined;
      throw error;
    }
  }

  async #isSaved(client: LibvirtClient, dom: Domain): Promise<boolean> {
    return (await client.call('domain_has_managed_save_image', { dom, flags: 0 })).result === 1;
  }

  async #view(client: LibvirtClient, dom: Domain): Promise<DomainView> {
    const { state, reason } = await client.call('domain_get_state', { dom, flags: 0 });
    return { id: dom.uuid, ...toState(state, reason) };
  }
}

/** Those that may be ours. */
async function ownDomains(client: LibvirtClient, flags: number): Promise<Domain[]> {
  const listing = { need_results: 1, flags };
  const { domains } = await client.call('connect_list_all_domains', listing);
  return domains.filter(isNamedAsOurs);
}

function isNamedAsOurs({ name }: Domain): boolean {
  return name.startsWith(domainPrefix);
}
