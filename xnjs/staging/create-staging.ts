import pLimit, { type LimitFunction } from 'p-limit';
import { asGridError, errorText } from '#kernel/errors.js';
import { linkSignals } from '#kernel/net/deadline.js';
import { parseDescription } from '../job/description.js';
import type { Job } from '../job/job.js';
import { quote } from '../incarnation/quote.js';
import type { ExportEntry, ImportEntry } from './entries.js';
import { StagingError } from './errors.js';
import { partName, partOf, run } from './on-target.js';
import { persist, throwIfGone, waitOut } from './persist.js';
import { Progress, type TransferStore } from './progress.js';
import { protocolOf, schemeOf } from './protocols.js';
import type { SingleTransfer, SingleTransfers, Staging, StagingSite } from './staging.js';
import type { ExportTransfer, ImportTransfer, Services } from './transfer.js';
import { withoutSecrets } from './url.js';

export type StagingOptions = Services & {
  readonly store: TransferStore;
  /** Told of bytes of jobs' transfers as they move. */
  readonly onMoved?: ((bytes: number) => void) | undefined;
};

export function createStaging(options: StagingOptions): Staging & SingleTransfers {
  const slots = pLimit(options.config.transfers);
  const single = (transfer: SingleTransfer, signal: AbortSignal): AnyTransfer => {
    const { id, ownerDn } = transfer;
    return { ...options, ...transfer, job: { id, ownerDn }, signal, say: () => undefined };
  };
  return {
    perform: (transfer, signal) => performSingle(single(transfer, signal), slots),
    discard: (transfer, signal) => clear({ ...transfer, signal }),
    stage: (job, direction, site, signal) =>
      new Stage(options, slots, job, direction, site).run(signal),
  };
}

const longestLog = 500;

type Direction = 'in' | 'out';
type AnyTransfer =
  | (ImportTransfer & { readonly direction: 'in' })
  | (ExportTransfer & { readonly direction: 'out' });

/** All transfers of a job in one direction. */
class Stage {
  readonly #options: StagingOptions;
  readonly #slots: LimitFunction;
  readonly #ownSlots: LimitFunction;
  readonly #job: Job;
  readonly #direction: Direction;
  readonly #site: StagingSite;
  readonly #log: string[] = [];

  constructor(
    options: StagingOptions,
    slots: LimitFunction,
    job: Job,
    direction: Direction,
    site: StagingSite,
  ) {
    this.#options = options;
    this.#slots = slots;
    this.#ownSlots = pLimit(options.config.transfersPerJob);
    this.#job = job;
    this.#direction = direction;
    this.#site = site;
  }

  async run(signal: AbortSignal): Promise<{ readonly log: readonly string[] }> {
    const { store } = this.#options;
    const { Imports, Exports } = parseDescription(this.#job.description);
    const entries = this.#direction === 'in' ? Imports : Exports;
    if (entries.length === 0) return { log: [] };
    const key = { jobId: this.#job.id, run: this.#job.run.number, direction: this.#direction };
    const records = await store.find(key);
    const failed = new AbortController();
    using until = linkSignals(signal, failed.signal);
    /** Elements with the same target follow each other: one may append to what the other wrote. */
    const chains = new Map<string, Promise<void>>();
    for (const [index, entry] of entries.entries()) {
      const record = records.get(index);
      if (record !== undefined && record.state !== 'RUNNING') continue;
      const transfer = this.#transferOf(
        index,
        entry,
        new Progress(store, { ...key, index }, record, this.#options.onMoved),
        until.signal,
      );
      const before = chains.get(entry.to) ?? Promise.resolve();
      const mine = before.then(() => this.#perform(transfer));
      chains.set(
        entry.to,
        mine.catch((error: unknown) => failed.abort(error)),
      );
    }
    await Promise.all(chains.values());
    if (failed.signal.aborted && !signal.aborted) await this.#clear(signal).catch(() => undefined);
    until.signal.throwIfAborted(); // with what came first
    return { log: this.#log };
  }

  #transferOf(
    index: number,
    entry: ImportEntry | ExportEntry,
    progress: Progress,
    signal: AbortSignal,
  ): AnyTransfer {
    const what = describe(entry, this.#direction);
    return {
      ...this.#options,
      id: `${this.#job.id}_${this.#direction}${this.#job.run.number}_${index}`,
      direction: this.#direction,
      entry,
      progress,
      signal,
      job: this.#job,
      site: this.#site,
      say: (text: string) => this.#say(`${what}: ${text}.`),
    } as AnyTransfer; // the entries of a direction are all of one kind
  }

  /** What needs neither memory nor time waits for nobody. */
  async #inTurn(transfer: AnyTransfer): Promise<void> {
    if (isLight(transfer)) await performOnce(transfer);
    else await this.#ownSlots(() => this.#slots(() => performOnce(transfer)));
  }

  /** Half files that nobody will go on with. */
  async #clear(signal: AbortSignal): Promise<void> {
    const { id, run: ofJob } = this.#job;
    const prefix = `${await this.#site.files.mountPoint()}.UNICORE_${id}_${this.#direction}${ofJob.number}_`;
    await run({ site: this.#site, signal }, `rm -rf -- ${quote(prefix)}*`);
  }

  /** Ten thousand files that were kept are no news. */
  #say(line: string): void {
    if (this.#log.length < longestLog) this.#log.push(line);
  }

  /** Until it is done, or its failure is to be ignored. */
  async #perform(transfer: AnyTransfer): Promise<void> {
    const { entry, progress, signal, log, say } = transfer;
    const what = describe(entry, this.#direction);
    const about = { jobId: this.#job.id, transfer: what };
    try {
      await persist(transfer, () => this.#inTurn(transfer));
      await waitOut(transfer, () => progress.end('DONE'));
      const { bytes } = progress.record;
      log.info({ ...about, bytes }, 'file staged');
      say(bytes > 0 ? `${bytes} bytes` : 'done');
    } catch (error) {
      signal.throwIfAborted();
      throwIfGone(transfer);
      log.info({ ...about, err: error }, 'file not staged');
      await clear(transfer).catch(() => undefined); // of no use to anybody
      const failure = toFailure(error, what);
      if (entry.failOnError) throw failure;
      this.#say(`${failure.message} (ignored).`);
      await waitOut(transfer, () => progress.end('IGNORED'));
    }
  }
}

function isLight({ entry, direction }: AnyTransfer): boolean {
  return protocolOf(direction === 'in' ? entry.from : entry.to)?.isLight === true;
}

async function performSingle(transfer: AnyTransfer, slots: LimitFunction): Promise<void> {
  const once = (): Promise<void> => performOnce(transfer);
  try {
    await persist(transfer, () => (isLight(transfer) ? once() : slots(once)));
  } catch (error) {
    transfer.signal.throwIfAborted();
    throwIfGone(transfer);
    await clear(transfer).catch(() => undefined); // of no use to anybody
    throw toFailure(error, describe(transfer.entry, transfer.direction));
  }
}

async function performOnce(transfer: AnyTransfer): Promise<void> {
  transfer.signal.throwIfAborted();
  const { entry } = transfer;
  const url = transfer.direction === 'in' ? entry.from : entry.to;
  const protocol = protocolOf(url);
  if (transfer.direction === 'in' && protocol?.import) {
    await protocol.import(transfer);
    return;
  }
  if (transfer.direction === 'out' && protocol?.export) {
    await protocol.export(transfer);
    return;
  }
  const scheme = schemeOf(url);
  throw new StagingError('BAD_REQUEST', `transfers by "${scheme ?? url}" are not offered here`);
}

async function clear(transfer: Pick<AnyTransfer, 'id' | 'site' | 'signal'>): Promise<void> {
  const { id, site } = transfer;
  if (!site.target) {
    await site.files.remove(`/${partName(id)}`);
    return;
  }
  const part = await partOf(transfer);
  await run(transfer, `rm -rf -- ${quote(part)} ${quote(`${part}.d`)}`);
}

/** The sentence that the user reads. */
function toFailure(error: unknown, what: string): StagingError {
  const { code } = asGridError(error) ?? {};
  const kept =
    code === 'BAD_REQUEST' || code === 'FORBIDDEN' || code === 'NOT_FOUND' || code === 'CONFLICT'
      ? code
      : 'PEER_FAILED';
  return new StagingError(kept, `${what} failed: ${errorText(error)}`, {}, { cause: error });
}

function describe({ from, to }: ImportEntry | ExportEntry, direction: Direction): string {
  if (direction === 'out') return `Export of "${from}" to ${withoutSecrets(to)}`;
  return from === 'inline:'
    ? `Import of "${to}" from the job description`
    : `Import of "${to}" from ${withoutSecrets(from)}`;
}
