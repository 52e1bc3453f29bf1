import { randomUUID } from 'node:crypto';
import { closeSync, fchownSync, openSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ChildProcess } from 'node:child_process';
import { TsiError } from '../protocol/error.js';
import type { Settings } from './settings.js';
import type { User, Users } from './users.js';

/** The kernel takes no longer argument than 128 KiB; longer scripts go by a file without a name. */
const maxArgumentBytes = 100_000;
const maxOutputBytes = 8 * 1024 * 1024;
/** How long output is read on after the shell has ended, should something behind it keep it open. */
const lingerMs = 100;

/** Shell text of a user, run by bash. */
export class Scripts {
  readonly #settings: Settings;
  readonly #users: Users;

  constructor(settings: Settings, users: Users) {
    this.#settings = settings;
    this.#users = users;
  }

  /**
   * @param gone aborted when nobody waits any more: what was started is killed
   * @returns stdout and stderr as they came
   */
  async run(user: User, text: string, gone: AbortSignal): Promise<string> {
    const child = this.#start(user, `exec 2>&1\n${text}`, true);
    const kill = (): void => killGroup(child);
    gone.addEventListener('abort', kill, { once: true });
    try {
      const output: Buffer[] = [];
      let size = 0;
      child.stdout?.on('data', (chunk: Buffer) => {
        size += chunk.length;
        if (size <= maxOutputBytes) output.push(chunk);
        else kill();
      });
      const status = await ended(child);
      const printed = Buffer.concat(output).toString();
      if (size > maxOutputBytes)
        throw new TsiError('TSI_FAILED', `the script prints more than ${maxOutputBytes} bytes`);
      if (status === 0) return printed;
      throw new TsiError('TSI_FAILED', `Command failed with code ${status}: ${printed}`);
    } finally {
      gone.removeEventListener('abort', kill);
    }
  }

  /** Started and forgotten. */
  async launch(user: User, text: string): Promise<void> {
    const child = this.#start(user, text, false);
    await new Promise((done, failed) => child.once('spawn', done).once('error', failed));
    child.unref();
  }

  #start(user: User, text: string, listen: boolean): ChildProcess {
    const options = {
      cwd: this.#settings.safeDir,
      stdio: ['ignore', listen ? 'pipe' : 'ignore', 'ignore'] as ('ignore' | 'pipe' | number)[],
    };
    const login = this.#settings.loginShell ? ['-l'] : [];
    if (Buffer.byteLength(text) <= maxArgumentBytes)
      return this.#users.spawn(user, '/bin/bash', [...login, '-c', text], options);
    const fd = this.#store(user, text);
    try {
      options.stdio.push(fd);
      return this.#users.spawn(user, '/bin/bash', [...login, '/proc/self/fd/3'], options);
    } finally {
      closeSync(fd);
    }
  }

  #store(user: User, text: string): number {
    const path = join(this.#settings.safeDir, `.tsi-${randomUUID()}`);
    const fd = openSync(path, 'wx+', 0o600);
    unlinkSync(path);
    if (this.#settings.switchUid) fchownSync(fd, user.uid, user.gid);
    writeFileSync(fd, text);
    return fd;
  }
}

/** Resolves when the shell has ended, even if something it left behind keeps its output open. */
function ended(child: ChildProcess): Promise<number | string> {
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      const done = (): void => {
        clearTimeout(linger);
        child.stdout?.destroy();
        resolve(code ?? signal ?? 'unknown');
      };
      const linger = setTimeout(done, lingerMs);
      child.once('close', done);
    });
  });
}

function killGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // it has ended meanwhile
  }
}
