import type { ChildProcess, SpawnOptions } from 'node:child_process';
import type { Submit } from '../protocol/commands.js';
import type { BssEntry } from '../protocol/status.js';

/** A job's owner, as far as a batch system needs to know. */
export type Owner = {
  readonly login: string;
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  readonly home: string;
};

/** What the agent lends to its batch system. */
export type Host = {
  /** Synchronous work with the owner's ids. */
  as<T>(owner: Owner, work: () => T): T;
  /** A program of the owner, in a session of its own. */
  spawn(owner: Owner, file: string, args: readonly string[], options: SpawnOptions): ChildProcess;
};

/** `text` is the whole job script: the message's header, which is comments to a shell, and the body. */
export type JobRequest = Submit & { readonly text: string };

/** A batch system. The adapters differ in nothing that is seen from outside (§2.8, §2.11–2.14). */
export type Bss = {
  /** @returns the job's id; the same for the same owner and `attemptId`, also after a restart */
  submit(owner: Owner, job: JobRequest): Promise<string>;
  /** All jobs of all owners that have not ended. */
  status(): Iterable<readonly [string, BssEntry]>;
  /** Ends a job with all its processes; one that has ended is left as it is. */
  abort(owner: Owner, id: string): Promise<void>;
  /** One JSON object. */
  details(owner: Owner, id: string): string;
};
