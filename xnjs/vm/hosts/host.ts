import type { Hypervisor } from '../hypervisor.js';
import type { Driver } from '../target-system.js';
import type { DriverCapabilities } from './capabilities.js';
import type { Pinning } from './cores.js';
import type { HostStorage } from './storage/host-storage.js';

/** The host that this server runs on. */
export const localHost = 'local';

/** One driver of one host: what its hypervisor says holds for the machines there, and for no others. */
export type Seat = { readonly host: string; readonly driver: Driver };

export function seatOf({ host, driver }: Seat): Seat {
  return { host, driver };
}

export function isSeatOf(seat: Seat, { host, driver }: Seat): boolean {
  return seat.host === host && seat.driver === driver;
}

/** For maps and messages. */
export function seatKey({ host, driver }: Seat): string {
  return `${host} ${driver}`;
}

/** What a host has for machines, or they take of it; absent: without a bound. */
export type Room = {
  readonly cores?: number | undefined;
  readonly memoryMiB?: number | undefined;
  readonly diskMiB?: number | undefined;
};

/** What machines take together. */
export type Load = { readonly cores: number; readonly memoryMiB: number; readonly diskMiB: number };

/** A host whose libvirt we use. */
export type Host = {
  readonly name: string;
  readonly hypervisor: Hypervisor;
  /** Those that it has when it answers. */
  readonly drivers: readonly Driver[];
  /** Of places that only some have: a label of a wish names what its host must have. */
  readonly labels: readonly string[];
  /** By the configuration: takes no new machines. */
  readonly drain: boolean;
  /** Instead of what is measured. */
  readonly capacity: Room;
  /** Taken off what is measured. */
  readonly reserved: Room;
  /** Absent: all machines share all cores. */
  readonly pinning?: Pinning | undefined;
  /** Asks what the host has; absent: only `capacity` bounds it. */
  readonly measure?: () => Promise<Room>;
  /** Asks what machines a driver of it can run; absent: nobody knows. */
  readonly learn?: (driver: Driver) => Promise<DriverCapabilities>;
  /** Where its machines' files are; absent: in this server's directory, which it shares. */
  readonly storage?: HostStorage;
};

/** Sockets of its machines, and their networks, are on this host too. */
export function isLocal({ host }: Pick<Seat, 'host'>): boolean {
  return host === localHost;
}
