import { resolve } from 'node:path';
import type { RunOnLoginNode } from '../protocol/commands.js';
import { TsiError } from '../protocol/error.js';
import type { Host, Owner } from './bss.js';
import { LocalJobs } from './local-jobs.js';
import { endSession, holdSession, resumeSession, type Session } from './session.js';

export type LoginNodeRequest = RunOnLoginNode & { readonly text: string };

/** What XNJSs call what they have started here, by the node as they know it. */
const idForm = /^INTERACTIVE_.*_(\d+)$/;

export const isOnLoginNode = (id: string): boolean => idForm.test(id);

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

  abort(owner: Owner, id: string): Promise<void> {
    return this.#with(owner, id, endSession);
  }

  hold(owner: Owner, id: string): Promise<void> {
    return this.#with(owner, id, holdSession);
  }

  resume(owner: Owner, id: string): Promise<void> {
    return this.#with(owner, id, resumeSession);
  }

  /** What has ended is left as it is. */
  async #with(owner: Owner, id: string, act: (session: Session) => Promise<void>): Promise<void> {
    const session = this.#jobs.session(this.#jobs.findByPid(owner, Number(idForm.exec(id)?.[1])));
    if (session) await act(session);
  }

  /** Called with the pid of each that has ended. @returns ends it */
  onExit(listener: (pid: string) => void): () => void {
    return this.#jobs.onExit((id) => {
      const run = this.#jobs.run(id);
      if (run) listener(String(run.pid));
    });
  }
}
