import type { Duplex } from 'node:stream';
import { GridError } from '#kernel/errors.js';
import { jobVariables } from './context/machine-setup.js';
import { mergeIdb, type TargetIdb } from '../idb/idb.js';
import type { IdbSource } from '../idb/idb-source.js';
import type { Target } from '../target.js';
import type { Machines } from './machines.js';
import { isGone, isUsable } from './state.js';
import type { SystemRecords } from './system-records.js';
import type { TargetBinding } from './target-binding.js';
import { idbSubject, identityOf } from './target-system.js';

export type TargetAccessOptions = {
  readonly records: Pick<SystemRecords, 'find'>;
  readonly machines: Pick<Machines, 'binding' | 'onExit' | 'askQueues'>;
  /** The site's IDB. */
  readonly idb: Pick<IdbSource, 'bind'> | undefined;
  /** Somebody wants to work there. */
  readonly used: (id: string) => void;
  /** Somebody works there until this has ended. */
  readonly usedBy: (id: string, connection: Duplex) => void;
};

/** Target systems as the engine works with them. */
export class TargetAccess {
  readonly #options: TargetAccessOptions;

  constructor(options: TargetAccessOptions) {
    this.#options = options;
  }

  /** `undefined`: there is none, or its machine is gone. */
  find(targetId: string): Target | undefined {
    const { records, machines, idb } = this.#options;
    const record = records.find(targetId);
    if (!record || isGone(record)) return undefined;
    const target: Target = {
      ownerDn: record.ownerDn,
      identity: identityOf(record),
      jobsDirectory: record.image.metadata.tsi.jobsDirectory,
      environment: jobVariables(record),
      ...idbSubject(record),
      tsi: () => this.#answering(targetId).tsi,
      forward: async (service, signal, loginNode) => {
        const binding = this.#answering(targetId);
        const connection = await binding.forward(target.identity, service, signal, loginNode);
        this.#options.usedBy(targetId, connection);
        return connection;
      },
      loginNodes: () => this.#answering(targetId).loginNodes,
      onExit: (listener) => machines.onExit(targetId, listener),
    };
    return { ...target, idb: this.#idbOf(target, idb?.bind(target)) };
  }

  /** Complete only when the batch system has told its queues for the first time. */
  #idbOf(target: Target, idb: TargetIdb | undefined): TargetIdb {
    const isUnasked = target.queues === undefined;
    return {
      current: () => idb?.current() ?? mergeIdb(target),
      isStale: () => isUnasked || idb?.isStale() === true,
      refresh: async () => {
        if (isUnasked) await this.#options.machines.askQueues(target.id);
        if (idb?.isStale()) await idb.refresh();
      },
    };
  }

  #answering(targetId: string): TargetBinding {
    const { records, machines, used } = this.#options;
    used(targetId);
    const record = records.find(targetId);
    const binding = machines.binding(targetId);
    if (binding && record && isUsable(record)) return binding;
    const text = `the TSI of target system ${targetId} is not reachable`;
    throw new GridError('TSI_UNAVAILABLE', text, { vmId: targetId });
  }
}
