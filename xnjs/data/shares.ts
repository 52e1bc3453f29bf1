import { randomUUID } from 'node:crypto';
import type { Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { anonymous, type Caller } from '#kernel/http/caller.js';
import { equalDns } from '#kernel/security/dn.js';
import { normalisePath } from '../files/path.js';
import type { FileInfo, FileSpace } from '../files/file-space.js';
import { isAllowed, isOwner } from '#kernel/security/acl.js';
import type { Storage } from '../storage/storage.js';
import type { Storages } from '../storage/storages.js';
import type { DataConfig } from './config.js';
import { OwnedRecords, type OwnedRecord, type RecordStore } from './owned-records.js';
import type { Principal } from './principal.js';

export type ShareAccess = 'READ' | 'WRITE';

/** Leave for one user, or for everybody, to use a path of its owner's in its owner's name. */
export type Share = OwnedRecord & {
  readonly principal: Principal;
  /** DN; {@link anonymous} for everybody. */
  readonly user: string;
  readonly storageId: string;
  /** Canonical. */
  readonly path: string;
  readonly isDirectory: boolean;
  readonly access: ShareAccess;
  /** Ends with its first use. */
  readonly isOneTime: boolean;
  readonly accessCount: number;
  /** The latest, the newest last. */
  readonly accesses: readonly ShareUse[];
};

export type ShareUse = {
  /** ms since the epoch */
  readonly atMs: number;
  readonly dn: string;
  readonly access: ShareAccess;
  /** Below the shared path; empty for itself. */
  readonly path: string;
};

export type ShareWish = Pick<
  Share,
  'principal' | 'user' | 'storageId' | 'path' | 'access' | 'isOneTime'
> & { readonly lifetimeSeconds?: number | undefined };

/** What is read or written by a share. */
export type Used = {
  readonly share: Share;
  readonly files: FileSpace;
  readonly path: string;
  /** Of what is read. */
  readonly entry: FileInfo | undefined;
};

export type SharesOptions = {
  readonly store: RecordStore<Share>;
  readonly storages: Pick<Storages, 'get'>;
  readonly config: Pick<DataConfig, 'sharesPerUser' | 'maxShareSeconds'>;
  readonly clock: Clock;
};

const mostUses = 100;

/** What users share by addresses of their own (unicore-rest 3.21). */
export class Shares {
  readonly records: OwnedRecords<Share>;
  readonly #options: SharesOptions;

  constructor(options: SharesOptions) {
    const { store, config } = options;
    this.#options = options;
    this.records = new OwnedRecords({ store, what: 'share', perUser: config.sharesPerUser });
  }

  async start(): Promise<void> {
    await this.records.load();
  }

  /**
   * One for each user and path: a second replaces the first.
   * @throws `FORBIDDEN` the files are another's; `NOT_FOUND`; `BAD_REQUEST` naming the member
   */
  async create(wish: ShareWish): Promise<Share> {
    const { clock } = this.#options;
    const { principal, user, storageId, access, isOneTime, lifetimeSeconds } = wish;
    const path = normalisePath(wish.path);
    const files = await this.#files(wish);
    const terminationMs = this.#terminationMs(lifetimeSeconds);
    const { isDirectory } = await files.stat(path);
    const before = this.#like({ principal, user, storageId, path });
    const share: Share = {
      ...{ id: randomUUID(), ownerDn: principal.dn, principal, user, tags: [] },
      ...{ storageId, path, isDirectory, access, isOneTime, accessCount: 0, accesses: [] },
      createdMs: clock.now(),
      ...(terminationMs !== undefined && { terminationMs }),
    };
    if (before) await this.records.remove(before.id);
    await this.records.add(share);
    return share;
  }

  /** What `create` with the same would replace is ended. @throws `NOT_FOUND` */
  async revoke(wish: Pick<ShareWish, 'principal' | 'user' | 'storageId' | 'path'>): Promise<void> {
    const share = this.#like({ ...wish, path: normalisePath(wish.path) });
    if (!share) throw new GridError('NOT_FOUND', `${wish.path} is not shared with ${wish.user}`);
    await this.records.remove(share.id);
  }

  /** Those that a user owns, and those of others that name him. */
  of(dn: string): { readonly shares: readonly Share[]; readonly accessible: readonly Share[] } {
    const all = [...this.records.all()].filter((share) => this.#isAlive(share));
    return {
      shares: all.filter(({ ownerDn }) => isSame(ownerDn, dn)),
      accessible: all.filter(({ user, ownerDn }) => isSame(user, dn) && !isSame(ownerDn, dn)),
    };
  }

  async update(
    id: string,
    {
      lifetimeSeconds,
      ...change
    }: Partial<Pick<Share, 'access' | 'isOneTime'>> & {
      readonly lifetimeSeconds?: number | undefined;
    },
  ): Promise<void> {
    const terminationMs =
      lifetimeSeconds === undefined ? undefined : this.#terminationMs(lifetimeSeconds);
    await this.records.update(id, (share) => ({
      ...share,
      ...change,
      ...(terminationMs !== undefined && { terminationMs }),
    }));
  }

  /** A share that a caller may use. @throws `NOT_FOUND`, `LOGIN_REQUIRED` */
  find(id: string, caller: Caller): Share {
    const share = this.records.get(id);
    if (!this.#isAlive(share)) throw new GridError('NOT_FOUND', `there is no share ${id}`);
    if (share.user === anonymous.dn) return share;
    if (caller.role === 'anonymous')
      throw new GridError('LOGIN_REQUIRED', 'this share is for a user who has logged in');
    if (isSame(caller.dn, share.user) || isSharedBy(share, caller)) return share;
    throw new GridError('NOT_FOUND', `there is no share ${id}`);
  }

  /**
   * Uses a share once: noted before anything is read or written.
   * @param below path below what is shared
   * @throws `NOT_FOUND`, `LOGIN_REQUIRED`, `FORBIDDEN` it is for reading only
   */
  async use(id: string, caller: Caller, below: string, access: ShareAccess): Promise<Used> {
    const share = this.find(id, caller);
    if (access === 'WRITE' && share.access !== 'WRITE')
      throw new GridError('FORBIDDEN', 'this share is for reading only');
    const inside = normalisePath(below);
    if (inside !== '/' && !share.isDirectory)
      throw new GridError('NOT_FOUND', 'what is shared is a file, and no directory');
    const path = normalisePath(`${share.path}/${inside}`);
    const files = await this.#files(share);
    // what is not there, or cannot be reached, does not use up what is for one time
    const entry = access === 'READ' ? await files.stat(path) : undefined;
    await this.#note(share, {
      ...{ atMs: this.#options.clock.now(), dn: caller.dn, access },
      path: inside === '/' ? '' : inside,
    });
    return { share, files, path, entry };
  }

  /** Two at once do not both use what is for one. */
  async #note({ id }: Share, use: ShareUse): Promise<void> {
    const share = await this.records.update(id, (before) => ({
      ...before,
      accessCount: before.accessCount + 1,
      accesses: [...before.accesses, use].slice(-mostUses),
    }));
    if (!share || (share.isOneTime && share.accessCount > 1))
      throw new GridError('NOT_FOUND', `there is no share ${id}`);
    if (share.isOneTime) await this.records.remove(id);
  }

  #isAlive({ terminationMs = Infinity, isOneTime, accessCount }: Share): boolean {
    return terminationMs > this.#options.clock.now() && !(isOneTime && accessCount > 0);
  }

  #like(wish: Pick<ShareWish, 'principal' | 'user' | 'storageId' | 'path'>): Share | undefined {
    return [...this.records.all()].find(
      (share) =>
        isSame(share.ownerDn, wish.principal.dn) &&
        isSame(share.user, wish.user) &&
        share.storageId === wish.storageId &&
        share.path === wish.path,
    );
  }

  /** As the owner, for as long as they are his. */
  async #files({
    storageId,
    principal,
    access,
  }: Pick<Share, 'storageId' | 'principal' | 'access'>): Promise<FileSpace> {
    const storage = await this.#options.storages.get(storageId);
    if (!mayShare(storage, principal, access))
      throw new GridError('FORBIDDEN', 'only the owner of files may share them');
    return storage.files(principal.dn);
  }

  #terminationMs(lifetimeSeconds = 0): number | undefined {
    const { clock, config } = this.#options;
    const { maxShareSeconds } = config;
    const seconds = lifetimeSeconds === 0 ? maxShareSeconds : lifetimeSeconds;
    if (seconds === undefined) return undefined;
    if (seconds > (maxShareSeconds ?? Infinity))
      throw new GridError('BAD_REQUEST', `lifetime: must be ${maxShareSeconds} s at most`);
    return clock.now() + seconds * 1_000;
  }
}

/** The owner of a storage; and of directories that each user has for himself, the user. */
function mayShare(storage: Storage, principal: Principal, access: ShareAccess): boolean {
  if (isOwner(storage, principal)) return true;
  const isOwnDirectory = storage.kind === 'SHARED' && storage.ownerDn === undefined;
  return isOwnDirectory && isAllowed(storage, principal, access === 'READ' ? 'read' : 'write');
}

/** Also an administrator. */
export function isSharedBy({ ownerDn }: Pick<Share, 'ownerDn'>, caller: Caller): boolean {
  return isOwner({ ownerDn }, caller);
}

function isSame(a: string, b: string): boolean {
  return a === b || equalDns(a, b);
}
