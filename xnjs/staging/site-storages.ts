import { isAllowed, type AccessLevel } from '#kernel/security/acl.js';
import type { FileSpace } from '../files/file-space.js';
import type { Storages } from '../storage/storages.js';
import type { Target, Targets } from '../target.js';
import { StagingError } from './errors.js';

/** A storage of this very site. Without a target system its files lie on the server. */
export type SiteStorage = { readonly target?: Target | undefined; readonly files: FileSpace };

/** Finds the storages of this site by their ids in URLs. */
export type SiteStorages = {
  /**
   * @param base what comes before `/rest/core/storages/…`
   * @param level what the user must be allowed to do there
   * @returns `undefined`: a storage of another site
   * @throws {@link StagingError} `NOT_FOUND`, also for storages that the user may not see
   */
  find(
    base: string,
    storageId: string,
    userDn: string,
    level: AccessLevel,
  ): Promise<SiteStorage | undefined>;
};

export type SiteStoragesOptions = {
  /** `https://host:port/VSITE`, as users may write it. */
  readonly siteUrls: readonly string[];
  readonly targets: Targets;
  /** Asked for when it is needed: it is made after the job engine. */
  readonly storages: () => Pick<Storages, 'get'>;
};

export function createSiteStorages(options: SiteStoragesOptions): SiteStorages {
  const { targets, storages } = options;
  const ours = new Set(options.siteUrls.map(canonical));
  return {
    async find(base, storageId, userDn, level) {
      if (!ours.has(canonical(base))) return undefined;
      const storage = await storages()
        .get(storageId)
        .catch(() => undefined);
      const caller = { dn: userDn, role: 'user' };
      if (!storage || !isAllowed(storage, caller, level))
        throw new StagingError('NOT_FOUND', `there is no storage ${storageId} at this site`);
      const { targetId } = storage;
      return {
        ...(targetId !== undefined && { target: targets.find(targetId) }),
        files: storage.files(userDn),
      };
    },
  };
}

/** Without what two spellings of one address differ in. */
function canonical(url: string): string {
  if (!URL.canParse(url)) return url;
  const { protocol, host, pathname } = new URL(url);
  return `${protocol}//${host}${pathname.replace(/\/+$/, '')}`;
}
