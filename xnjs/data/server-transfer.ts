import type { z } from 'zod';
import { GridError } from '#kernel/errors.js';
import { describeIssues } from '#kernel/config.js';
import {
  exportEntries,
  importEntries,
  type ExportEntry,
  type ImportEntry,
} from '../staging/entries.js';
import {
  Progress,
  type Beginning,
  type TransferRecord,
  type TransferStore,
} from '../staging/progress.js';
import { protocolsOffered, schemeOf } from '../staging/protocols.js';
import { parseUnicoreUrl } from '../staging/unicore-client.js';
import { withoutSecrets } from '../staging/url.js';
import type { OwnedRecord } from './owned-records.js';
import type { Principal } from './principal.js';
import type { TransferState } from './transfer-state.js';

/** As it was asked for. */
export type TransferWish = {
  readonly principal: Principal;
  readonly storageId: string;
  /** Path in the storage. */
  readonly file: string;
  readonly tags: readonly string[];
  /** `in`: from there into the storage. */
  readonly direction: 'in' | 'out';
  /** URL of the other side. */
  readonly remote: string;
  readonly protocol?: string | undefined;
  /** Text that is the file, for an inline source. */
  readonly data?: unknown;
  readonly mode?: string | undefined;
  readonly credentials?: unknown;
  readonly parameters: Readonly<Record<string, string>>;
  /** ms since the epoch */
  readonly startMs?: number | undefined;
  readonly terminationMs?: number | undefined;
};

/** A transfer between a storage and somewhere else: the durable record. */
export type ServerTransfer = OwnedRecord &
  Omit<TransferWish, 'terminationMs'> & {
    readonly state: TransferState;
    /** For people. */
    readonly message: string;
    readonly progress?: TransferRecord;
    readonly transferredBytes: number;
    /** −1 while it is not known. */
    readonly sizeBytes: number;
    /** By path at the target, `RUNNING` or `DONE`; no more than a thousand. */
    readonly files: Readonly<Record<string, string>>;
    readonly startedMs?: number;
    /** There is nothing half done of it. */
    readonly isSettled?: boolean;
  };

export type TransferEntry =
  | { readonly direction: 'in'; readonly entry: ImportEntry }
  | { readonly direction: 'out'; readonly entry: ExportEntry };

/**
 * What data staging is to do. A single member list, so that rules and words are those of jobs.
 * @throws `BAD_REQUEST` naming the member
 */
export function entryOf(wish: TransferWish): TransferEntry {
  const { direction, file } = wish;
  const remote = remoteOf(wish);
  const common = {
    Mode: wish.mode,
    Credentials: wish.credentials ?? undefined,
    ExtraParameters: wish.parameters,
    Data: wish.data ?? undefined,
  };
  if (direction === 'in') {
    const [entry] = parse(importEntries, { ...common, From: remote, To: file }, names.in);
    if (entry) return { direction, entry };
  } else {
    const [entry] = parse(exportEntries, { ...common, From: file, To: remote }, names.out);
    if (entry) return { direction, entry };
  }
  throw new TypeError('one element was parsed to none');
}

/** What an element of a job's staging is called in a transfer. */
const names = {
  in: { From: 'source', To: 'file' },
  out: { From: 'file', To: 'target' },
} as const;

function parse<T>(
  schema: z.ZodType<readonly T[]>,
  element: object,
  called: Readonly<Record<string, string>>,
): readonly T[] {
  const parsed = schema.safeParse([element]);
  if (parsed.success) return parsed.data;
  const text = describeIssues(parsed.error)
    .replaceAll(/(^|; )0(?:\.|: )/g, '$1')
    .replaceAll(/\b(From|To): /g, (whole, name: string) => `${called[name] ?? whole}: `);
  throw new GridError('BAD_REQUEST', `${text} (offered: ${protocolsOffered().join(', ')})`);
}

/** A protocol that is asked for is part of the URL of a storage. */
function remoteOf({ remote, protocol }: Pick<TransferWish, 'remote' | 'protocol'>): string {
  const isStorage = parseUnicoreUrl(remote) !== undefined;
  const asked = protocol ?? 'BFT';
  return isStorage && asked.toUpperCase() !== 'BFT' ? `${asked}:${remote}` : remote;
}

/** The other side and the protocol, as they may be shown. */
export function shownRemote(transfer: Pick<TransferWish, 'remote' | 'protocol'>): {
  readonly url: string;
  readonly protocol: string;
} {
  const url = withoutSecrets(remoteOf(transfer));
  if (!parseUnicoreUrl(url)) return { url, protocol: schemeOf(url) ?? '' };
  return { url: /^https?:/i.test(url) ? `BFT:${url}` : url, protocol: 'BFT' };
}

const mostFiles = 1_000;

/** What of the progress of a transfer is shown. */
export type Shown = Pick<ServerTransfer, 'transferredBytes' | 'sizeBytes' | 'files'>;

/** Looks on: counts bytes and names files. */
export class ShownProgress extends Progress {
  readonly #files = new Map<string, string>();

  constructor(store: TransferStore, { id, direction, ...record }: ServerTransfer) {
    super(store, { jobId: id, run: 0, direction, index: 0 }, record.progress);
    for (const [file, state] of Object.entries(record.files)) this.#files.set(file, state);
  }

  get shown(): Shown {
    return {
      transferredBytes: this.transferredBytes,
      sizeBytes: this.knownBytes,
      files: Object.fromEntries(this.#files),
    };
  }

  override began(beginning: Beginning): void {
    super.began(beginning);
    this.#note(beginning.file, 'RUNNING');
  }

  override async complete(
    file: string,
    bytes: number,
    exactly: boolean,
    nowMs: number,
  ): Promise<void> {
    this.#note(file, 'DONE');
    await super.complete(file, bytes, exactly, nowMs);
  }

  #note(file: string, state: string): void {
    if (this.#files.size < mostFiles || this.#files.has(file)) this.#files.set(file, state);
  }
}
