import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import type { Job } from '../job/job.js';
import type { StagingConfig } from './config.js';
import type { ExportEntry, ImportEntry } from './entries.js';
import type { Outside } from './outside.js';
import type { Progress } from './progress.js';
import type { SiteStorages } from './site-storages.js';
import type { StagingSite } from './staging.js';

/**
 * A token that proves to a UNICORE site for whom we ask.
 * @param site what comes before `/rest/core/…`
 * @returns `undefined`: the site is not one that gets such tokens
 */
export type OnBehalfOf = (ownerDn: string, site: URL) => Promise<string | undefined>;

/** What every transfer works with. */
export type Services = {
  readonly outside: Outside;
  readonly config: StagingConfig;
  /** A directory of the server's for what cannot be streamed. */
  readonly scratchDirectory: string;
  readonly storages: SiteStorages;
  readonly onBehalfOf: OnBehalfOf;
  readonly clock: Clock;
  readonly log: Log;
};

/** One try at one element of a job's `Imports` or `Exports`, or at a transfer of no job. */
export type Transfer<Entry> = Services & {
  /** Names it among those of the job: `in_1_0`. */
  readonly id: string;
  readonly entry: Entry;
  /** Or a transfer of its own. */
  readonly job: Pick<Job, 'id' | 'ownerDn'>;
  readonly site: StagingSite;
  readonly signal: AbortSignal;
  readonly progress: Progress;
  /** For the job's log. */
  readonly say: (text: string) => void;
};
export type ImportTransfer = Transfer<ImportEntry>;
export type ExportTransfer = Transfer<ExportEntry>;

/** A way to bring files in, out, or both. Doing it again goes on from `progress`, or begins anew. */
export type Protocol = {
  readonly import?: (transfer: ImportTransfer) => Promise<void>;
  readonly export?: (transfer: ExportTransfer) => Promise<void>;
  /** Takes part in no limits. */
  readonly isLight?: boolean;
};

/** The end of a path or URL: what a file is called where its new name is left open. */
export function baseName(path: string): string {
  return path.replace(/\/+$/, '').replace(/^.*\//, '');
}

/** The part of an Authorization header that proves who asks. */
export function authorizationOf({
  credentials,
}: Pick<ImportEntry, 'credentials'>): string | undefined {
  switch (credentials?.kind) {
    case undefined:
      return undefined;
    case 'basic': {
      const { username, password } = credentials;
      return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
    }
    case 'bearer':
      return `Bearer ${credentials.token}`;
    case 'token':
      return `Token ${credentials.token}`;
  }
}
