import type { Clock } from '#kernel/clock.js';
import { asGridError, errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { isPassing } from '../../passing.js';
import type { SystemRecords } from '../../system-records.js';
import { bootBaseMs, type TargetSystem } from '../../target-system.js';
import type { ImageFile } from './copied-images.js';
import type { HostStorage, MachineFiles } from './host-storage.js';

export type FetchingOptions = {
  readonly records: Pick<SystemRecords, 'find' | 'save' | 'show' | 'queue' | 'schedule'>;
  /** The image as files of this server. */
  readonly filesOf: (record: TargetSystem) => Promise<MachineFiles>;
  /** Makes room for a user's image, where machines of nobody's hold theirs. @returns whether that may help */
  readonly giveUp: (host: string) => Promise<boolean>;
  readonly clock: Clock;
  readonly log: Log;
  readonly stopping: AbortSignal;
};

/** How often it is told how far a copy is, and how long one that broke off waits. */
const tellMs = 1_000;

/**
 * The slowest tier: images that are still to be copied to the host of a machine. Nobody waits for that in the
 * record's queue: a target system can be deleted meanwhile.
 */
export class Fetching {
  readonly #options: FetchingOptions;
  readonly #waiting = new Set<string>();
  readonly #failed = new Map<string, unknown>();

  constructor(options: FetchingOptions) {
    this.#options = options;
  }

  /**
   * Whether all that the machine is made of is there. If not it is on its way, which is stored first, and the record
   * is reconciled again when that is over. Only from inside the record's queue.
   * @throws why it could not be brought there
   */
  async isThere(record: TargetSystem, storage: HostStorage): Promise<boolean> {
    const { id, host, start } = record;
    if (this.#waiting.has(id)) return false;
    if (this.#failed.has(id)) {
      const error = this.#failed.get(id);
      this.#failed.delete(id);
      throw error;
    }
    const missing = await storage.missing(await this.#options.filesOf(record));
    if (missing.length === 0) return true;
    if (start && start.tier !== 'fetch') {
      const reason = `${start.reason}; its image is not on host ${host}`;
      await this.#options.records.save({ ...record, start: { tier: 'fetch', reason } });
    }
    this.#waiting.add(id);
    void this.#bring(record, storage, missing);
    return false;
  }

  /** Never fails: the failure is told at the next question. */
  async #bring(
    { id, host, generation }: TargetSystem,
    storage: HostStorage,
    files: readonly ImageFile[],
  ): Promise<void> {
    const { records, clock, log, stopping } = this.#options;
    const isCurrent = (record: TargetSystem | undefined): record is TargetSystem =>
      record?.state === 'INITIALIZING' && record.generation === generation;
    const over = new AbortController();
    void this.#tell(id, host, storage, files, { isCurrent, over: over.signal });
    try {
      await this.#copy(host, storage, files);
      over.abort();
      await records.queue(id, async () => {
        const record = records.find(id);
        if (!isCurrent(record)) return;
        const fetchedMs = clock.now() - bootBaseMs(record);
        await records.save({ ...record, boot: { ...record.boot, fetchedMs } });
      });
    } catch (error) {
      over.abort();
      log.warn({ vmId: id, host, err: errorText(error) }, 'an image could not be copied to a host');
      if (isPassing(error)) await clock.sleep(tellMs, stopping).catch(() => undefined);
      else if (isCurrent(records.find(id))) this.#failed.set(id, error);
    }
    this.#waiting.delete(id);
    records.schedule(id);
  }

  async #copy(host: string, storage: HostStorage, files: readonly ImageFile[]): Promise<void> {
    try {
      await storage.copy(files);
    } catch (error) {
      const isFull = asGridError(error)?.code === 'STORAGE_FULL';
      if (!isFull || !(await this.#options.giveUp(host))) throw error;
      await storage.copy(files);
    }
  }

  /** Users see how far it is. */
  async #tell(
    id: string,
    host: string,
    storage: HostStorage,
    files: readonly ImageFile[],
    until: {
      readonly isCurrent: (record: TargetSystem | undefined) => record is TargetSystem;
      readonly over: AbortSignal;
    },
  ): Promise<void> {
    const { records, clock, stopping } = this.#options;
    const end = AbortSignal.any([until.over, stopping]);
    while (!end.aborted) {
      await records.queue(id, () => {
        const record = records.find(id);
        if (!end.aborted && until.isCurrent(record))
          records.show({ ...record, evidence: progressOf(host, storage, files, clock.now()) });
        return Promise.resolve();
      });
      await clock.sleep(tellMs, end).catch(() => undefined);
    }
  }
}

function progressOf(
  host: string,
  storage: HostStorage,
  files: readonly ImageFile[],
  atMs: number,
): TargetSystem['evidence'] {
  const { doneBytes, totalBytes, isChecked } = storage.progress(files);
  const mib = (bytes: number): number => Math.floor(bytes / 1024 ** 2);
  const what = isChecked ? 'is read back from' : 'is being copied to';
  const fact = `its image ${what} host ${host}: ${mib(doneBytes)} of ${mib(totalBytes)} MiB`;
  return { source: 'server', fact, atMs };
}
