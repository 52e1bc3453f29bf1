import type { FileSpace } from '../files/file-space.js';
import type { Job } from '../job/job.js';
import type { Target } from '../target.js';
import type { Tsi } from '../tsi/tsi.js';
import type { ExportEntry, ImportEntry } from './entries.js';
import { StagingError } from './errors.js';
import type { Progress } from './progress.js';

/** Where the files of a job or storage lie. */
export type StagingSite = {
  readonly files: FileSpace;
  readonly tsi: () => Tsi;
  /** Absent: on this server, where nothing runs for users. */
  readonly target?: Target | undefined;
};

/** @throws {@link StagingError} the files lie on this server */
export function targetOf({ target }: Pick<StagingSite, 'target'>): Target {
  if (target) return target;
  throw new StagingError(
    'BAD_REQUEST',
    'this needs a target system, and the storage lies on the server',
  );
}

/** A storage of this server's, for transfers. */
export function siteOf(files: FileSpace, target: Target | undefined): StagingSite {
  return { files, target, tsi: () => targetOf({ target }).tsi() };
}

/** Performs the transfers of a job; resumes what a former try (also of a dead server) has begun. Rejects with the first failure that is not to be ignored. */
export type Staging = {
  stage(
    job: Job,
    direction: 'in' | 'out',
    site: StagingSite,
    signal: AbortSignal,
  ): Promise<{ readonly log: readonly string[] }>;
};

/** One transfer that belongs to no job. */
export type SingleTransfer = {
  /** Names it, and what is half done of it, for good. */
  readonly id: string;
  readonly ownerDn: string;
  readonly site: StagingSite;
  readonly progress: Progress;
} & (
  | { readonly direction: 'in'; readonly entry: ImportEntry }
  | { readonly direction: 'out'; readonly entry: ExportEntry }
);

export type SingleTransfers = {
  /**
   * Performs it, or goes on with it, until it is done.
   * @throws {@link StagingError} it has failed for good; the signal's reason, and what is half done stays
   */
  perform(transfer: SingleTransfer, signal: AbortSignal): Promise<void>;
  /** Removes what is half done of it. */
  discard(transfer: Pick<SingleTransfer, 'id' | 'site'>, signal: AbortSignal): Promise<void>;
};
