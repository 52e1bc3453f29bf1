import { createHash } from 'node:crypto';
import type { Clock } from '#kernel/clock.js';
import { dnKey, parseDn } from '#kernel/security/dn.js';
import type { FileSpace } from '../files/file-space.js';
import { HostDirectory } from '../files/host-directory.js';
import { HostFileSpace } from '../files/host-file-space.js';
import { Quota } from '../files/quota.js';

const mib = 1024 * 1024;
/** Quotas of so many directories are remembered; others are measured again. */
const maxQuotas = 10_000;

/** Storages in directories of this host: for each user, or each storage, a directory of its own. */
export class HostStorages {
  readonly #clock: Clock;
  readonly #directories = new Map<string, HostDirectory>();
  readonly #quotas = new Map<string, Quota>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** @param bases absolute paths */
  async prepare(bases: readonly string[]): Promise<void> {
    for (const base of new Set(bases)) await this.#directory(base).prepare();
  }

  ofUser(base: string, userDn: string, umask: string, quotaMiB?: number): FileSpace {
    return this.#files(base, userDirectory(userDn), umask, quotaMiB);
  }

  ofStorage(base: string, id: string, umask: string, quotaMiB?: number): FileSpace {
    return this.#files(base, id, umask, quotaMiB);
  }

  #directory(base: string): HostDirectory {
    const found = this.#directories.get(base) ?? new HostDirectory(base);
    this.#directories.set(base, found);
    return found;
  }

  #files(base: string, directory: string, umask: string, quotaMiB?: number): FileSpace {
    const host = this.#directory(base);
    const quota = quotaMiB === undefined ? undefined : this.#quota(host, directory, quotaMiB * mib);
    return new HostFileSpace({ host, directory, umask, quota });
  }

  #quota(host: HostDirectory, directory: string, limitBytes: number): Quota {
    const key = `${host.base}/${directory}`;
    const measured = new HostFileSpace({ host, directory });
    const quota =
      this.#quotas.get(key) ?? new Quota(limitBytes, () => measured.measure(), this.#clock);
    this.#quotas.set(key, quota);
    const oldest = this.#quotas.keys().next().value;
    if (this.#quotas.size > maxQuotas && oldest !== undefined) this.#quotas.delete(oldest);
    return quota;
  }
}

/** To be recognised by the operator, and the same for all spellings of a name: `alice-3f2a…`. */
export function userDirectory(dn: string): string {
  const parsed = parseDn(dn);
  const name = parsed.flat().find(({ type }) => type === 'CN')?.value ?? 'user';
  const readable = name
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replace(/^-/, '')
    .slice(0, 32);
  const hash = createHash('sha256').update(dnKey(parsed)).digest('hex').slice(0, 16);
  return `${readable.replace(/-$/, '') || 'user'}-${hash}`;
}
