import { closeSync, fstatSync, statSync, type Stats } from 'node:fs';

/** Between two chunks of one transfer there is less. */
const restMs = 250;
const most = 16;

type Kept = { readonly key: string; readonly fd: number; readonly found: Stats };

/**
 * Files that stay open between two chunks of one transfer, so that not every chunk costs a change of identity,
 * which stops all threads twice (ADR 021). One that has been replaced, or whose owner, mode, access list or content
 * is another than when it was left here, is not used again.
 */
export class KeptFiles {
  #kept: Kept[] = [];
  #rest: NodeJS.Timeout | undefined;

  /** @param key whose file it is, and opened for what. @returns its descriptor, which is the caller's again */
  take(key: string, path: string): number | undefined {
    const at = this.#kept.findIndex((each) => each.key === key);
    const [kept] = this.#kept.splice(at, at < 0 ? 0 : 1);
    if (!kept) return undefined;
    if (isUnchanged(path, kept.found)) return kept.fd;
    closeSync(kept.fd);
    return undefined;
  }

  keep(key: string, fd: number): void {
    this.#kept.push({ key, fd, found: fstatSync(fd) });
    if (this.#kept.length > most) closeSync(this.#kept.shift()?.fd ?? fd);
    this.#rest ??= setTimeout(() => this.#closeAll(), restMs);
    this.#rest.refresh();
  }

  #closeAll(): void {
    for (const { fd } of this.#kept.splice(0)) closeSync(fd);
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
