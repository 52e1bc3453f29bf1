import type { ChildProcess, SpawnOptions } from 'node:child_process';
import type { MakeReservation, Submit } from '../protocol/commands.js';
import type { Budget, Partition, Reservation } from '../protocol/information.js';
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

/** A batch system. The adapters differ in nothing that is seen from outside (§2.8, §2.11–2.15). */
export type Bss = {
  /** @returns the job's id; the same for the same owner and `attemptId`, also after a restart */
  submit(owner: Owner, job: JobRequest): Promise<string>;
  /** `#TSI_JOB_MODE allocate`: nodes are asked for in the background, nothing is started on them. */
  allocate?(owner: Owner, job: JobRequest): Promise<void>;
  /** All jobs of all owners that have not ended. */
  status(): Promise<Iterable<readonly [string, BssEntry]>>;
  /** Ends a job with all its processes; one that has ended is left as it is. */
  abort(owner: Owner, id: string): Promise<void>;
  hold(owner: Owner, id: string): Promise<void>;
  resume(owner: Owner, id: string): Promise<void>;
  /** One JSON object. */
  details(owner: Owner, id: string): Promise<string>;
  partitions(owner: Owner): Promise<Readonly<Record<string, Partition>>>;
  budget(owner: Owner): Promise<readonly Budget[]>;
  /** Where the batch system has none, the commands for them are refused as by stock TSIs. */
  readonly reservations?: Reservations;
  /** Called with the id of each job whose end becomes known. @returns ends it */
  onExit?(listener: (id: string) => void): () => void;
};

/** Nodes for a time to come (§2.17). */
export type Reservations = {
  /** @returns its reference */
  make(owner: Owner, request: MakeReservation): Promise<string>;
  query(owner: Owner, reference: string): Promise<Reservation>;
  cancel(owner: Owner, reference: string): Promise<void>;
};
