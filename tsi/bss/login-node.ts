import { resolve } from 'node:path';
import type { RunOnLoginNode } from '../protocol/commands.js';
import { TsiError } from '../protocol/error.js';
import type { Host, Owner } from './bss.js';
import { LocalJobs } from './local-jobs.js';

export type LoginNodeRequest = RunOnLoginNode & { readonly text: string };

/** Scripts that run beside the batch system, whatever that is (§2.9), known by their process. */
export class LoginNode {
  readonly #jobs: LocalJobs;

  constructor(host: Host, stateDir: string) {
    this.#jobs = new LocalJobs(host, resolve(stateDir, 'login'));
  }

  /** @returns the pid of the session's leader, also when the same attempt comes again */
  async run(owner: Owner, request: LoginNodeRequest): Promise<string> {
    const id = await this.#jobs.start(owner, request);
    const run = this.#jobs.run(id);
    if (run) return String(run.pid);
    throw new TsiError('TSI_FAILED', 'the script did not start', { jobId: id });
  }

  /** Called with the pid of each that has ended. @returns ends it */
  onExit(listener: (pid: string) => void): () => void {
    return this.#jobs.onExit((id) => {
      const run = this.#jobs.run(id);
      if (run) listener(String(run.pid));
    });
  }
}
