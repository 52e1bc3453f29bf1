import { closeSync, fstatSync, statSync, type Stats } from 'node:fs';

/** Between two chunks of one transfer there is less. */
const restMs = 250;
const most = 16;

type Kept = {
  readonly key: string;
  readonly fd: number;
  readonly found: Stats;
  readonly rest: NodeJS.Timeout;
};

/**
 * Files that stay open between two chunks of one transfer, so that not every chunk costs a change of identity,
 * which stops all threads twice (ADR 021). One that has been replaced, or whose owner, mode, access list or content
 * is another than when it was left here, is not used again.
 */
export class KeptFiles {
  readonly #kept = new Set<Kept>();

  /** @param key whose file it is, and opened for what. @returns its descriptor, which is the caller's again */
  take(key: string, path: string): number | undefined {
    const kept = [...this.#kept].find((each) => each.key === key);
    if (!kept) return undefined;
    this.#forget(kept);
    if (isUnchanged(path, kept.found)) return kept.fd;
    closeSync(kept.fd);
    return undefined;
  }

  keep(key: string, fd: number): void {
    const found = fstatSync(fd);
    // one for each: other transfers that go on keep none of them open
    const rest = setTimeout(() => this.#close(kept), restMs);
    const kept: Kept = { key, fd, found, rest };
    this.#kept.add(kept);
    const [oldest] = this.#kept;
    if (oldest && this.#kept.size > most) this.#close(oldest);
  }

  #close(kept: Kept): void {
    this.#forget(kept);
    closeSync(kept.fd);
  }

  #forget(kept: Kept): void {
    this.#kept.delete(kept);
    clearTimeout(kept.rest);
  }
}

const facts = ['dev', 'ino', 'mode', 'uid', 'gid', 'nlink', 'size', 'ctimeMs'] as const;

/** Asked as root; where root may not look, as on some network file systems, it counts as changed. */
function isUnchanged(path: string, before: Stats): boolean {
  try {
    const now = statSync(path);
    return facts.every((fact) => now[fact] === before[fact]);
  } catch {
    return false;
  }
}
