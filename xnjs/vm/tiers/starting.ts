import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { without } from '../../job/without.js';
import { meansOf, newToken } from '../context/enrolments.js';
import { machineName } from '../context/machine-authority.js';
import type { MachineContext } from '../context/machine-context.js';
import { jobVariables } from '../context/machine-setup.js';
import { hashOf } from '../context/proof.js';
import { hostName } from '../domain-xml.js';
import type { FilesOfMachines } from '../files-of-machines.js';
import { Fetching } from '../hosts/storage/fetching.js';
import { isPassing } from '../passing.js';
import type { SystemRecords } from '../system-records.js';
import { bootBaseMs, type TargetSystem } from '../target-system.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';
import { needsIdentity } from './identity.js';
import { copyable, fetchParts, withAgentDisk } from './image-files.js';
import type { SparePool } from './spare-pool.js';
import { startDomain } from './start-domain.js';
import type { Templates } from './templates.js';

export type StartingOptions = TargetSystemsOptions & {
  readonly records: Pick<SystemRecords, 'get' | 'find' | 'save' | 'show' | 'queue' | 'schedule'>;
  readonly files: Pick<FilesOfMachines, 'remove'>;
  readonly stopping: AbortSignal;
  readonly tiers: {
    readonly spares: SparePool | undefined;
    readonly templates: Templates | undefined;
  };
  /** @throws `SITE_UNAVAILABLE` another server acts in our place */
  readonly require: () => Promise<void>;
  readonly log: Log;
};

/** How machines come to run: by the tier that their records say, or one that is slower. */
export class Starting {
  readonly #options: StartingOptions;
  readonly #fetching: Fetching;

  constructor(options: StartingOptions) {
    this.#options = options;
    this.#fetching = new Fetching({
      ...options,
      filesOf: async (record) =>
        await copyable(record, await fetchParts(record, record.ownerDn, options), options),
      giveUp: async (host) => (await options.tiers.spares?.giveUpImages(host)) === true,
    });
  }

  /**
   * By the tier that the record says, or one that is slower.
   * @returns the record as it is then; `undefined`: its image is on its way to its host, and when that is over the
   * record is reconciled
   */
  async begin(found: TargetSystem): Promise<TargetSystem | undefined> {
    const { hosts, clock, records } = this.#options;
    const { driver, id } = found;
    if (needsIdentity(found)) {
      const domain = await hosts.of(found).find(driver, id);
      if (domain?.state === 'running') return found;
      const restored = domain ? undefined : await this.#restore(found);
      if (restored) return restored;
      if (records.get(id).isSpoilt !== true)
        await this.fallBack(found, 'the machine had stopped before it was ready');
    }
    const cleared = await this.#cleared(records.get(id));
    await this.#makeRoom(cleared);
    if (cleared.generation !== undefined) await hosts.of(cleared).removeOlder(cleared);
    const storage = hosts.storageOf(cleared);
    const told = storage ? await this.#withAgentDisk(cleared) : cleared;
    if (storage && !(await this.#fetching.isThere(told, storage))) return undefined;
    const { record, context } = await this.#withContext(told);
    const { definedMs, isFetched } = await startDomain(
      record,
      record.ownerDn,
      this.#options,
      context,
    );
    const baseMs = bootBaseMs(record);
    const { fetchedMs } = record.boot;
    const boot = {
      ...(fetchedMs !== undefined && { fetchedMs }),
      ...{ definedMs: definedMs - baseMs, startedMs: clock.now() - baseMs },
    };
    const start = record.start && isFetched && { ...record.start, tier: 'fetch' as const };
    return { ...record, boot, ...(start && { start }) };
  }

  /** Stored before it is copied: from then on it is in use there. */
  async #withAgentDisk(record: TargetSystem): Promise<TargetSystem> {
    const next = await withAgentDisk(record, this.#options);
    if (next !== record) await this.#options.records.save(next);
    return next;
  }

  /** What its machine is told of itself; what of that proves it stands in the record before anybody has it. */
  async #withContext(
    record: TargetSystem,
  ): Promise<{ record: TargetSystem; context: MachineContext }> {
    const context = {
      ...{ name: machineName(record), hostName: hostName(record) },
      ...(record.context && { own: record.context }),
      variables: jobVariables(record),
      // our agent mounts them itself
      ...(record.image.metadata.tsi.transport === 'tcp' &&
        record.volumes && { volumes: record.volumes }),
    };
    const { enrolments, workspace, hosts, records } = this.#options;
    const means = enrolments && meansOf(record);
    if (!means || means === 'message') return { record, context };
    if (record.enrolment?.keyHash !== undefined) {
      const domain = await hosts.of(record).find(record.driver, record.id);
      if (domain && domain.state !== 'stopped') return { record, context };
      // its token has been used, and it may have lost what it got for it
      await this.#options.require();
      await hosts.of(record).remove(record.driver, record.id);
      await workspace.tokens.reset(record);
    }
    const token = (await workspace.tokens.find(record)) ?? newToken();
    await workspace.tokens.keep(record, token);
    const given = { ...context, token };
    if (record.enrolment?.tokenHash === hashOf(token)) return { record, context: given };
    const next = { ...record, enrolment: enrolments.issue({ ...record, means }, token) };
    await records.save(next);
    return { record: next, context: given };
  }

  /** @returns `undefined`: it is not to be restored, or could not be, which is stored then */
  async #restore(record: TargetSystem): Promise<TargetSystem | undefined> {
    const { clock, tiers } = this.#options;
    if (record.start?.tier !== 'warm' || !tiers.templates) return undefined;
    try {
      await this.#makeRoom(record);
      await this.#options.require();
      const { definedMs } = await tiers.templates.restore(record);
      const restoredMs = clock.now() - record.createdMs;
      return { ...record, boot: { definedMs: definedMs - record.createdMs, restoredMs } };
    } catch (error) {
      if (isPassing(error)) throw error;
      await this.fallBack(record, errorText(error));
      return undefined;
    }
  }

  /** What is nobody's on its host makes way. */
  async #makeRoom(record: TargetSystem): Promise<void> {
    this.#options.tiers.templates?.yield(record.host);
    await this.#options.tiers.spares?.makeRoom(record);
  }

  /** Stored: from now on it is started anew, whatever happens. Only from inside the record's queue. */
  async fallBack(record: TargetSystem, why: string): Promise<void> {
    const own = without(record, 'template', 'enrolment');
    const { template } = record;
    const { id, start } = own;
    this.#options.log.warn(
      { vmId: id, tier: start?.tier, template, reason: why },
      'a start falls back a tier',
    );
    this.#options.observer?.fellBack(start?.tier ?? 'unknown');
    const reason = `${start?.tier ?? 'another tier'} failed: ${why}`;
    await this.#options.records.save({
      ...{ ...own, start: { tier: 'cold', reason } },
      ...{ boot: {}, isSpoilt: true },
    });
  }

  /** Without what a faster tier has left. */
  async #cleared(found: TargetSystem): Promise<TargetSystem> {
    const { isSpoilt = false, ...record } = found;
    if (!isSpoilt) return found;
    await this.#options.require();
    await this.#options.hosts.of(record).remove(record.driver, record.id);
    await this.#options.files.remove(record);
    await this.#options.records.save(record);
    return record;
  }
}
