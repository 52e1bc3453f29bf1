import { createHash } from 'node:crypto';
import { localHost, seatKey, seatOf, type Seat } from '../hosts/host.js';
import type { Hosts } from '../hosts/hosts.js';
import { fingerprintOf, type Template } from './template.js';

/** What a hypervisor says of itself, and a short word for it. */
export type Described = { readonly text: string; readonly kind: string };

/** Saved memory can be restored on hosts that get at its file, and are like the one that it was taken on. */
export class Kinds {
  readonly #hosts: Hosts;
  /** What hypervisors that answer have said of themselves: versions, processor. */
  readonly #described = new Map<string, Described>();
  /** Asked for at each turn and placement. */
  readonly #fitting = new WeakMap<Template, Map<string, boolean>>();

  constructor(hosts: Hosts) {
    this.#hosts = hosts;
  }

  /** @returns ends it */
  follow(): () => void {
    // another version may have come up
    return this.#hosts.onAvailable((seat) => this.#described.delete(seatKey(seat)));
  }

  /** @throws what the hypervisor does */
  async learn(seat: Seat): Promise<void> {
    if (this.find(seat)) return;
    const text = await this.#hosts.of(seat).describe(seat.driver);
    this.#described.set(seatKey(seat), { text, kind: kindOf(text) });
  }

  /** `undefined`: it has not said yet. */
  find(seat: Seat): Described | undefined {
    return this.#described.get(seatKey(seat));
  }

  /** Where the files are that machines of a host can be restored from: its own pool, or what hosts share. */
  placeOf({ host }: Pick<Seat, 'host'>): string {
    const found = this.#hosts.all.find(({ name }) => name === host);
    if (!found) return host; // of one that is not configured nothing is known
    return found.storage ? `${host} ${found.storage.status.pool}` : localHost;
  }

  /**
   * No other host starts machines from our files. What is mapped loses its name as soon as it is: a file system that
   * hosts share may then lose it from under a machine.
   */
  get areFilesOurs(): boolean {
    return this.#hosts.all.every(({ name, storage }) => name === localHost || storage);
  }

  /** Whether the memory can be restored there; what is not known is none. */
  fits(template: Template, seat: Seat): boolean {
    const described = this.find(seat);
    return (
      described !== undefined &&
      this.isWithin(template, seat) &&
      this.#isOfKind(template, described)
    );
  }

  #isOfKind(template: Template, { text, kind }: Described): boolean {
    const known = this.#fitting.get(template) ?? new Map<string, boolean>();
    this.#fitting.set(template, known);
    const isOf = known.get(kind) ?? fingerprintOf(template, text) === template.fingerprint;
    known.set(kind, isOf);
    return isOf;
  }

  /** Whether it gets at the memory's file, and has the machine's driver. */
  isWithin(template: Template, seat: Seat): boolean {
    return template.driver === seat.driver && placeOf(template) === this.placeOf(seat);
  }

  /** Nothing is left that it could be restored on: all who get at it have said so. */
  isOutdated(template: Template): boolean {
    const seats = this.#hosts.all
      .filter(({ drivers }) => drivers.includes(template.driver))
      .filter(({ name: host }) => !this.#hosts.isLost({ host })) // it will never say so
      .map(({ name }) => seatOf({ host: name, driver: template.driver }))
      .filter((seat) => this.isWithin(template, seat));
    const areKnown = seats.every((seat) => this.#hosts.isUp(seat) && this.find(seat) !== undefined);
    return seats.length > 0 && areKnown && !seats.some((seat) => this.fits(template, seat));
  }
}

/** Where its files are, whatever the configuration says of its host now. */
export function placeOf({ place = localHost }: Pick<Template, 'place'>): string {
  return place;
}

/** Equal on hosts that are alike. */
export function kindOf(described: string): string {
  return createHash('sha256').update(described).digest('hex');
}
