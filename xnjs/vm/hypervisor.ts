import type { Duplex, Readable } from 'node:stream';
import type { DomainMark } from './domain-mark.js';
import type { MappedMemory } from './memory-backend.js';
import type { ChangeableName, Driver, TargetSystem } from './target-system.js';
import type { UsageSample } from './usage.js';

/** `stalled`: halted by an error, not by an order. */
export type DomainState = 'running' | 'paused' | 'stalled' | 'stopped';

/** A domain of ours, as the hypervisor shows it. */
export type DomainView = {
  readonly id: string;
  readonly state: DomainState;
  readonly reason: string;
  /** Its memory is on its way to a file, or from one. */
  readonly isMoving?: boolean;
  /** It has stopped, and what was in its memory is on disk; absent: it is not known, or is not so. */
  readonly isSaved?: boolean;
};

/** A domain of this installation. `mark`: what it carries; absent where the caller knows it anyway. */
export type OwnDomain = DomainView & { readonly mark?: DomainMark };

/** How a domain is, by the hypervisor and by the machine's own process. */
export type DomainLook = DomainView & {
  /** Whether that process answers the hypervisor; absent: it was not asked, or cannot say so. */
  readonly answers?: boolean;
  /** Too many processes hang already: it was not asked, so that the hypervisor can go on with other work. */
  readonly isUnasked?: boolean;
  /** What its virtual processors have used since its start; where it was not asked, what its process has. */
  readonly cpuMs?: number;
};

/** Definitions in libvirt's language. */
export type NetworkDefinition = {
  readonly name: string;
  /** Absent: the network is not ours to make. */
  readonly networkXml?: string;
  readonly filterXml: string;
};

/** What a machine is restored from: files on its host. */
export type SavedMachine = {
  readonly xml?: string;
  /** libvirt's. */
  readonly memory: string;
  /** What that has not. */
  readonly mapped?: MappedMemory | undefined;
  /** It stands still until it is resumed. */
  readonly isHalted?: boolean;
};

/**
 * What the controller needs from a hypervisor. libvirt's RPC client stands behind it (ADR 002); another
 * binding needs these calls only. Every call has a deadline.
 * @throws `HYPERVISOR_UNAVAILABLE` nobody answers: nothing is known of any domain;
 * `HYPERVISOR_FAILED` it refused, with its text
 */
export type Hypervisor = {
  /** The drivers that answer at present. */
  available(): readonly Driver[];
  /** Defines the domain and starts it. One that is there already is left as it is, a stopped one started. */
  start(driver: Driver, id: string, xml: string): Promise<{ definedMs: number }>;
  /** Writes the memory of a machine that runs to a file; then it is gone, its definition too. */
  saveMemory(driver: Driver, id: string, path: string): Promise<void>;
  /** Starts a machine from such a file, whose definition names this machine. Without another that is its own. */
  restoreMemory(driver: Driver, id: string, from: SavedMachine): Promise<{ definedMs: number }>;
  /** Equal as long as memory that was saved here can be restored here: versions, processor. */
  describe(driver: Driver): Promise<string>;
  /** `undefined`: the hypervisor answers and has no such domain. */
  find(driver: Driver, id: string): Promise<DomainView | undefined>;
  /**
   * Gives the domain what the record says of these parameters, while it runs. May be repeated.
   * @returns `false`: there is none that runs, and nothing was done. One that is parked comes back with the
   * definition that is in its saved memory, whatever it is told meanwhile.
   */
  setControls(
    system: Pick<TargetSystem, 'id' | 'driver' | 'parameters' | 'card' | 'image' | 'volumes'>,
    names: readonly ChangeableName[],
  ): Promise<boolean>;
  /**
   * What these domains have used since their start; those that do not run, or do not answer at once, are left
   * out.
   */
  usage(driver: Driver, ids: readonly string[]): Promise<UsageSample[]>;
  /**
   * Writes the memory of a machine to disk and stops it. May be repeated, and takes as long as that takes.
   * @returns whether it is saved; `false`: it has stopped without, or is not there
   */
  save(driver: Driver, id: string): Promise<boolean>;
  /** Starts a machine from what was saved. @returns `false`: nothing was, or it is not there */
  restore(driver: Driver, id: string): Promise<boolean>;
  /**
   * Writes the memory of a machine, which runs or is parked, to a file of ours and ends its process; the domain
   * stays defined. May be repeated, and takes as long as that takes.
   * @returns whether that is done; `false`: it has stopped without, or is not there
   */
  saveMemoryTo(driver: Driver, id: string, path: string): Promise<boolean>;
  /**
   * Starts a machine from such a file of its own, unless it runs: it stands still until it is resumed; `park`: it is
   * parked. May be repeated.
   */
  startFromMemory(driver: Driver, id: string, path: string, park: boolean): Promise<void>;
  /** Lets a machine go on that stands still. May be repeated; one that is not there is fine. */
  resume(driver: Driver, id: string): Promise<void>;
  /** Ends a machine, and what was parked of it; the domain stays defined. One that is not there is fine. */
  end(driver: Driver, id: string): Promise<void>;
  /** Takes down a domain of an earlier generation than the record's. */
  removeOlder(system: TargetSystem): Promise<void>;
  /** Stops and undefines. A domain that is not there is fine. */
  remove(driver: Driver, id: string): Promise<void>;
  /**
   * How the domains are that may be ours; who knows their ids tells them from others. Takes some seconds when
   * one of them hangs, no more.
   * @param ids of these only; absent: of all
   * @param isDoubtful what stands still is to be seen of such a one, too, where it cannot be asked
   */
  look(
    driver: Driver,
    ids?: readonly string[],
    isDoubtful?: (id: string) => boolean,
  ): Promise<DomainLook[]>;
  /** The domains of this installation only. @param isKnown to whom the domain belongs need not be read again */
  list(driver: Driver, isKnown?: (id: string) => boolean): Promise<OwnDomain[]>;
  /** Writes on a domain whose it is now. One that is not there is fine. */
  mark(system: TargetSystem, epoch: number): Promise<void>;
  /** The byte stream to the guest's virtio port, or a container's second console, by the hypervisor's own means. */
  openChannel(driver: Driver, id: string, portName: string): Promise<Duplex>;
  /**
   * Both directions of the console of a machine that runs; one at a time has it.
   * @param force takes it away from whoever has it
   */
  openConsole(driver: Driver, id: string, force: boolean): Promise<Duplex>;
  /** The screen of a machine that runs, as a picture. */
  screenshot(driver: Driver, id: string): Promise<Readable>;
  /** Makes a network and its filter if they are missing. May be repeated. */
  ensureNetwork(driver: Driver, network: NetworkDefinition): Promise<void>;
  /**
   * Those that the hypervisor has given to the domain's network cards; what the guest says counts nothing.
   * @param source `neighbours`: the host has seen them, in a network where others give addresses
   */
  addresses(
    driver: Driver,
    id: string,
    source?: 'leases' | 'neighbours',
  ): Promise<readonly string[]>;
  /** A domain of ours has changed. */
  onDomain(listener: (domain: DomainView) => void): () => void;
  /** A driver answers again after it did not: compare. */
  onAvailable(listener: (driver: Driver) => void): () => void;
};
