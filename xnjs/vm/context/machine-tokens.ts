import { mkdir, open, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isToken } from '#tsi/protocol/enrolment.js';
import type { TargetSystem } from '../target-system.js';
import { whole } from '../whole-files.js';
import { seedName } from './seed-disk.js';

type Machine = Pick<TargetSystem, 'id' | 'generation'>;

/**
 * The tokens of machines that are being started, in files that only we can read: a server that was killed
 * between its record and its domain must give the machine the same one again.
 */
export class MachineTokens {
  readonly #directoryOf: (id: string) => string;

  constructor(directoryOf: (id: string) => string) {
    this.#directoryOf = directoryOf;
  }

  /** @returns what is there, for a domain may have been defined with it */
  async find(machine: Machine): Promise<string | undefined> {
    const text = await readFile(this.#path(machine), 'utf8').catch(() => '');
    return isToken(text) ? text : undefined;
  }

  async keep(machine: Machine, token: string): Promise<void> {
    await mkdir(this.#directoryOf(machine.id), { recursive: true, mode: 0o711 });
    await whole(this.#path(machine), (draft) => writeSecret(draft, token));
  }

  /** Lays it where a container's agent finds it. @param owner of the container's root, on this host */
  async hand(id: string, token: string, owner: number): Promise<void> {
    const path = this.#handed(id);
    // what the last machine of this name may have put there, a link to a file of ours, goes
    await rm(path, { recursive: true, force: true });
    await writeSecret(path, token, owner);
  }

  /** It has been used. */
  async forget(machine: Machine): Promise<void> {
    await rm(this.#path(machine), { force: true });
    await rm(this.#handed(machine.id), { recursive: true, force: true });
  }

  /** A machine that has used its token is made anew: nothing is left of what told it of that one. */
  async reset(machine: Machine): Promise<void> {
    await this.forget(machine);
    await rm(join(this.#directoryOf(machine.id), seedName(machine)), { force: true });
  }

  #path(machine: Machine): string {
    return join(this.#directoryOf(machine.id), `token.${machine.generation ?? 1}`);
  }

  #handed(id: string): string {
    return join(this.#directoryOf(id), 'run', 'enrolment');
  }
}

/** Never through a link. */
async function writeSecret(path: string, text: string, owner?: number): Promise<void> {
  await using file = await open(path, 'wx', 0o600);
  await file.writeFile(text);
  if (owner !== undefined) await file.chown(owner, owner);
  await file.sync();
}
