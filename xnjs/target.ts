import type { Duplex } from 'node:stream';
import type { IdbSubject, TargetIdb } from './idb/idb.js';
import type { LoginNodes, Tsi, TsiIdentity } from './tsi/tsi.js';

/**
 * A target system as the job engine sees it: who runs jobs there and how to reach its TSI. Bound anew
 * whenever its VM is; ask for it again rather than keep it.
 */
export type Target = IdbSubject & {
  readonly id: string;
  readonly ownerDn: string;
  readonly identity: TsiIdentity;
  /** Absolute path below which job directories are made. */
  readonly jobsDirectory: string;
  /** Variables of the environment of all jobs there. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Absent: the image alone says what can be run. */
  readonly idb?: TargetIdb;
  /** @throws `TSI_UNAVAILABLE` while nothing is bound */
  tsi(): Tsi;
  /** Of a target system with several TSIs; gives nothing where one is all. @throws as `tsi` */
  loginNodes?(): LoginNodes | undefined;
  /**
   * Told when a job there has ended, by an agent that says so by itself: a reason to look, not a proof.
   * Lasts however often the target is bound anew. @returns ends it
   */
  onExit?(listener: (bssId: string) => void): () => void;
  /**
   * A connection to a service there, made by the jobs' account: `host:port`, or `file:<path>` of a socket.
   * @param loginNode of several; any by default
   * @throws `TSI_UNAVAILABLE`; `TSI_FAILED` the TSI says that there is no such service
   */
  forward?(service: string, signal: AbortSignal, loginNode?: string): Promise<Duplex>;
};

/** What becomes of a target system, for its jobs. */
export type TargetEvent =
  /** `isStart`: for the first time since its machine was started. */
  | { readonly type: 'ready'; readonly targetId: string; readonly isStart?: true }
  /** Proven gone, with its running processes. Never sent for a target that merely does not answer. */
  | { readonly type: 'lost'; readonly targetId: string; readonly reason: string }
  /** The same, and another machine of the same name is started in its place. */
  | { readonly type: 'replaced'; readonly targetId: string };

export type Targets = {
  find(targetId: string): Target | undefined;
  /** Those whose time does not count at present: life times of their jobs do not end there. */
  parked?(): readonly string[];
  /** @returns a function that ends the subscription */
  subscribe(listener: (event: TargetEvent) => void): () => void;
};
