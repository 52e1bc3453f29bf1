import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { Target } from '../target.js';
import type { IdbConfig } from './config.js';
import { emptySiteIdb, mergeIdb, type Idb, type IdbSubject, type TargetIdb } from './idb.js';
import type { ScriptHeader } from './script-header.js';
import { idbVersion, readSiteIdb, type SiteIdb } from './site-idb.js';
import { readUserApplications, type UserApplications } from './user-applications.js';

export type IdbSourceOptions = {
  readonly config: IdbConfig;
  readonly clock: Clock;
  readonly log: Log;
};

const userFilesKeptMs = 300_000;
type OfUser = UserApplications & { readonly readMs: number };

/**
 * The site's IDB, read again whenever its files change. A new version that is wrong changes nothing: the
 * last good one stays in force, as a whole, until the files are right again.
 */
export class IdbSource implements AsyncDisposable {
  readonly #options: IdbSourceOptions;
  readonly #log: Log;
  readonly #ofUsers = new Map<string, OfUser>();
  readonly #closing = new AbortController();
  #site: SiteIdb = emptySiteIdb;
  #version = '';
  #problem: string | undefined;
  #watching: Promise<void> = Promise.resolve();

  private constructor(options: IdbSourceOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.idb' });
  }

  /** @throws `IDB_INVALID` when the first reading fails */
  static async open(options: IdbSourceOptions): Promise<IdbSource> {
    const source = new IdbSource(options);
    const { path, allowUserExecutable } = options.config;
    if (path === undefined) {
      source.#site = { ...emptySiteIdb, allowUserExecutable };
      return source;
    }
    source.#version = await idbVersion({ path });
    source.#site = await source.#read(path);
    source.#watching = source.#watch(path);
    return source;
  }

  of(target: IdbSubject & { readonly id?: string }): Idb {
    const ofUser = this.#ofUsers.get(target.id ?? '');
    const idb = mergeIdb(target, this.#site, ofUser?.applications);
    return ofUser && ofUser.problems.length > 0 ? { ...idb, problems: ofUser.problems } : idb;
  }

  /** First lines of scripts, as the site has them now. */
  get scriptHeader(): ScriptHeader {
    return this.#site.scriptHeader;
  }

  /** Why the files as they are now are not in force. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** The IDB of one target system, for its jobs. */
  bind(target: Target): TargetIdb {
    return {
      current: () => this.of(target),
      isStale: () => this.#isStale(target.id),
      refresh: () => this.#refresh(target),
    };
  }

  #isStale(id: string): boolean {
    if (this.#options.config.userFiles.length === 0) return false;
    const readMs = this.#ofUsers.get(id)?.readMs;
    return readMs === undefined || this.#options.clock.now() - readMs >= userFilesKeptMs;
  }

  async #refresh(target: Target): Promise<void> {
    const { clock, config } = this.#options;
    const found = await readUserApplications(target, config.userFiles);
    const readMs = clock.now();
    for (const [id, kept] of this.#ofUsers)
      if (readMs - kept.readMs >= userFilesKeptMs) this.#ofUsers.delete(id);
    this.#ofUsers.set(target.id, { ...found, readMs });
    if (found.problems.length > 0)
      this.#log.info({ vmId: target.id, problems: found.problems }, 'application files are wrong');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#watching;
  }

  async #read(path: string): Promise<SiteIdb> {
    const { main, allowUserExecutable } = this.#options.config;
    const site = { ...(await readSiteIdb({ path, main })), allowUserExecutable };
    const partitions = site.partitions.map(({ name }) => name);
    this.#log.info({ path, applications: site.applications.length, partitions }, 'IDB read');
    return site;
  }

  async #watch(path: string): Promise<void> {
    const { config, clock } = this.#options;
    const { signal } = this.#closing;
    const pause = (): Promise<boolean> =>
      clock.sleep(config.recheckSeconds * 1_000, signal).then(
        () => true,
        () => false,
      );
    while (await pause()) await this.#recheck(path);
  }

  async #recheck(path: string): Promise<void> {
    let version = ''; // while it cannot be found out, the next that can is a new one
    try {
      // asked for before: what changes while the files are read is found next time
      version = await idbVersion({ path });
      if (version === this.#version) return;
      this.#site = await this.#read(path);
      this.#problem = undefined;
    } catch (error) {
      const problem = errorText(error);
      if (problem !== this.#problem)
        this.#log.error({ path, err: error }, 'the IDB is wrong, the last good one stays in force');
      this.#problem = problem;
    }
    this.#version = version;
  }
}
