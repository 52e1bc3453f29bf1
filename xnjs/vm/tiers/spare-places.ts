import { randomUUID } from 'node:crypto';
import { imageFormats } from '#imagerepo/contract.js';
import { isLocal } from '../hosts/host.js';
import { chooseDriver } from '../parameters.js';
import type { MachineSpec } from '../target-system.js';
import type { Held } from './held-spare.js';
import { plainParameters } from './plain-parameters.js';
import { isSameImage } from './same-machine.js';
import type { Spare } from './spare.js';
import type { SparePoolOptions } from './spare-pool.js';
import type { Upkeep } from './upkeep.js';

export type SparePlacesOptions = Pick<
  SparePoolOptions,
  'hosts' | 'places' | 'flavours' | 'spares' | 'clock'
> & {
  readonly held: () => readonly Held[];
  /** By host. */
  readonly upkeeps: ReadonlyMap<string, Upkeep>;
};

/** A machine that has no name yet. */
type Nameless = Omit<MachineSpec, 'id'>;

/** Where spares are, and the next one would be (ADR 042). */
export class SparePlaces {
  readonly #options: SparePlacesOptions;

  constructor(options: SparePlacesOptions) {
    this.#options = options;
  }

  /** Those of a host that is lost are there, for all that is known, and of no use. */
  reachable(image: Spare['image']): Held[] {
    return this.#options
      .held()
      .filter(
        ({ spare, phase }) =>
          isSameImage(spare.image, image) &&
          this.#options.hosts.isUp(spare) &&
          phase !== 'taken' &&
          phase !== 'going',
      );
  }

  /** Those of an image that are too many: hosts keep one each before any keeps two. */
  surplus(image: Spare['image'], count: number): Held[] {
    const perHost = new Map<string, number>();
    const ranked = this.reachable(image)
      .toSorted((a, b) => Number(b.phase === 'ready') - Number(a.phase === 'ready'))
      .map((held) => {
        const { host } = held.spare;
        const rank = perHost.get(host) ?? 0;
        perHost.set(host, rank + 1);
        return { held, rank };
      });
    return ranked
      .toSorted((a, b) => a.rank - b.rank)
      .slice(count)
      .map(({ held }) => held);
  }

  /** Where its image is at hand, if that can be; on the host with the fewest of its kind, then that with most room. */
  next(image: Spare['image'], callerDn: string): Spare | undefined {
    const { places, clock } = this.#options;
    const options = [...this.#options.upkeeps].flatMap(([host, upkeep]) => {
      const machine = upkeep.isUnfit(image.id) ? undefined : this.#machineOn(host, image);
      const vacancy = machine && places.vacancy(host, machine);
      if (!vacancy || upkeep.isCrowded || this.#isFull(machine)) return [];
      const others = this.reachable(image).filter(({ spare }) => spare.host === host).length;
      return [{ machine, ...vacancy, others }];
    });
    const [best] = options.toSorted(
      (a, b) => Number(b.hasImage) - Number(a.hasImage) || a.others - b.others || a.load - b.load,
    );
    return best && { ...best.machine, id: randomUUID(), callerDn, createdMs: clock.now() };
  }

  #machineOn(host: string, image: Spare['image']): Nameless | undefined {
    const { hosts, flavours } = this.#options;
    const { drivers } = imageFormats[image.metadata.format];
    const available = hosts.driversUp({ host });
    if (!drivers.some((each) => available.includes(each))) return undefined;
    const driver = chooseDriver(image.metadata, available);
    const parameters = plainParameters({ image, driver }, flavours);
    return parameters && { image, driver, parameters, host };
  }

  /** Whether one more would be too many, or take room that users might want; those of lost hosts count. */
  #isFull(machine: Nameless): boolean {
    const { maxMachines, maxMemoryMiB, reserveMiB } = this.#options.spares.config;
    const mine = this.#options.held().filter(({ phase }) => phase !== 'taken');
    const { memoryMiB } = machine.parameters;
    return (
      mine.length >= maxMachines ||
      memoryOf(mine) + memoryMiB > maxMemoryMiB ||
      this.freeMiB(machine) < memoryMiB + reserveMiB
    );
  }

  /**
   * What a host could give. Of this one it is measured; of others it is what users' machines and nobody's leave.
   * @param comingMiB of a user's machine that is about to be started, which counts already where it is not measured
   */
  freeMiB(machine: Nameless, comingMiB = 0): number {
    const { spares, places } = this.#options;
    return isLocal(machine) ? spares.availableMiB() - comingMiB : places.freeMiB(machine.host);
  }
}

function memoryOf(those: readonly Held[]): number {
  return those.reduce((sum, { spare }) => sum + spare.parameters.memoryMiB, 0);
}
