import { equalDns } from '#kernel/security/dn.js';
import type { FileSpace } from '../files/file-space.js';
import { TsiFileSpace } from '../files/tsi-file-space.js';
import type { Job } from '../job/job.js';
import type { Target, Targets } from '../target.js';
import { StagingError } from './errors.js';

/** A storage of this very site. */
export type SiteStorage = { readonly target: Target; readonly files: FileSpace };

/** Finds the storages of this site by their ids in URLs. */
export type SiteStorages = {
  /**
   * @param base what comes before `/rest/core/storages/…`
   * @returns `undefined`: a storage of another site
   * @throws {@link StagingError} `NOT_FOUND`, also for storages of other users
   */
  find(base: string, storageId: string, ownerDn: string): Promise<SiteStorage | undefined>;
};

export type SiteStoragesOptions = {
  /** `https://host:port/VSITE`, as users may write it. */
  readonly siteUrls: readonly string[];
  readonly targets: Targets;
  readonly findJob: (id: string) => Promise<Job | undefined>;
  /** A job's directory. */
  readonly jobFiles: (job: Job, target: Target) => FileSpace;
};

const home = /^(.+)-HOME$/;
const workspace = /^(.+)-uspace$/;

export function createSiteStorages(options: SiteStoragesOptions): SiteStorages {
  const { targets, findJob, jobFiles } = options;
  const ours = new Set(options.siteUrls.map(canonical));
  return {
    async find(base, storageId, ownerDn) {
      if (!ours.has(canonical(base))) return undefined;
      const missing = new StagingError(
        'NOT_FOUND',
        `there is no storage ${storageId} at this site`,
      );
      const [, targetId] = home.exec(storageId) ?? [];
      if (targetId !== undefined) {
        const target = targets.find(targetId);
        if (!target || !equalDns(target.ownerDn, ownerDn)) throw missing;
        const { identity } = target;
        return {
          target,
          files: new TsiFileSpace({ root: '$HOME', identity, tsi: () => target.tsi() }),
        };
      }
      const [, jobId] = workspace.exec(storageId) ?? [];
      const job = jobId === undefined ? undefined : await findJob(jobId);
      const target = job && targets.find(job.targetId);
      if (!target || !equalDns(job.ownerDn, ownerDn)) throw missing;
      return { target, files: jobFiles(job, target) };
    },
  };
}

/** Without what two spellings of one address differ in. */
function canonical(url: string): string {
  if (!URL.canParse(url)) return url;
  const { protocol, host, pathname } = new URL(url);
  return `${protocol}//${host}${pathname.replace(/\/+$/, '')}`;
}
