import type { Duplex, Readable } from 'node:stream';
import type { AclChange, AclEntry } from '#tsi/protocol/acl.js';
import type { Budget, Partition, Reservation, UserInfo } from '#tsi/protocol/information.js';
import type { ListedFile } from '#tsi/protocol/listing.js';

export type { AclChange, AclEntry, AclSubject } from '#tsi/protocol/acl.js';
export type { Budget, Partition, Reservation, UserInfo } from '#tsi/protocol/information.js';

/** The two words of `#TSI_IDENTITY`: a login of the image and its groups (`NONE`, `DEFAULT_GID`, names by `:`). */
export type TsiIdentity = { readonly login: string; readonly groups: string };

/** One entry of `#TSI_LS`. */
export type FileEntry = Omit<ListedFile, 'access'>;

export type Space = {
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly userBytes: number;
};

export type BssState = 'QUEUED' | 'RUNNING' | 'SUSPENDED' | 'COMPLETED' | 'UNKNOWN';
export type BssEntry = {
  readonly state: BssState;
  readonly queue?: string;
  readonly rawState?: string;
};

/** `#TSI_SUBMIT`. Everything here has been checked by the codec for what could break the frame. */
export type Submission = {
  readonly uspaceDir: string;
  readonly outcomeDir: string;
  readonly stdout: string;
  readonly stderr: string;
  readonly jobName: string;
  /** s */
  readonly wallTime?: number;
  readonly memoryMiB?: number;
  readonly nodes?: number;
  readonly processorsPerNode?: number;
  readonly totalProcessors?: number;
  readonly queue?: string;
  readonly project?: string;
  readonly email?: string;
  /** Members of a job array; each has `UC_ARRAY_TASK_ID`, and the id is one for all. */
  readonly arraySize?: number;
  /** How many of them run at a time. */
  readonly arrayLimit?: number;
  readonly qos?: string;
  readonly exclusive?: boolean;
  readonly gpusPerNode?: number;
  /** What nodes must have, in the batch system's words. */
  readonly nodesFilter?: string;
  /** The reference of a reservation. */
  readonly reservation?: string;
  /**
   * `raw`: the batch system's directives are in `jobFile`, nothing is made of the resources here.
   * `allocate`: nodes are asked for in the background, nothing is started on them, and there is no id.
   */
  readonly mode?: 'raw' | 'allocate';
  readonly jobFile?: string;
  /** `allocate`: the file in the uspace that the id of the allocation is written to. */
  readonly allocationId?: string;
  /** Site specific resources: `#TSI_SSR_<NAME>`. */
  readonly siteResources?: Readonly<Record<string, string>>;
  /**
   * Names this attempt. Our agent answers a second submission of the same attempt with the id of the
   * first, so that a crash between the two never runs a job twice; other TSIs ignore the header.
   */
  readonly attemptId: string;
  /** The user's text, from `umask` to the exit code file. */
  readonly script: string;
};

/** `#TSI_RUN_ON_LOGIN_NODE`: a submission without resources. */
export type LoginNodeRun = Pick<
  Submission,
  'uspaceDir' | 'outcomeDir' | 'stdout' | 'stderr' | 'jobName' | 'email' | 'attemptId' | 'script'
>;

/** `#TSI_MAKE_RESERVATION`. */
export type ReservationRequest = Pick<
  Submission,
  | 'wallTime'
  | 'memoryMiB'
  | 'nodes'
  | 'processorsPerNode'
  | 'totalProcessors'
  | 'gpusPerNode'
  | 'queue'
  | 'siteResources'
> & {
  readonly reservationOwner: string;
  /** As dates everywhere on the wire. */
  readonly start: string;
  /** Our agent makes one reservation for each; other TSIs ignore it. */
  readonly reservationId: string;
};

export type CallOptions = { readonly signal?: AbortSignal };

/**
 * One TSI, whatever carries it. Every call has a deadline of its own, besides the caller's signal.
 * @throws `TSI_UNAVAILABLE` nothing answers (nothing was done, or it is not known: see each call),
 * `TSI_FAILED` the TSI refused, with its text, `TSI_PROTOCOL` it answered nonsense
 */
export type Tsi = {
  /** Dotted version, `11.2.1`. */
  ping(options?: CallOptions): Promise<string>;
  /** Runs shell text as the user. @returns what it printed, stdout and stderr together, untrimmed */
  execute(identity: TsiIdentity, script: string, options?: CallOptions): Promise<string>;
  /** `A` the path itself, `N` the children, `R` all below. A path that does not exist gives []. */
  list(
    identity: TsiIdentity,
    path: string,
    mode: 'A' | 'N' | 'R',
    options?: CallOptions,
  ): Promise<FileEntry[]>;
  /** Streams `[offset, offset+length)`, less if the file ends before. */
  read(
    identity: TsiIdentity,
    path: string,
    range?: { readonly offset?: number; readonly length?: number },
    options?: CallOptions,
  ): Readable;
  /** Writes or appends; the parent directory must exist. `mode` like 0o640. @returns bytes written */
  write(
    identity: TsiIdentity,
    path: string,
    source: Readable,
    how?: { readonly mode?: number; readonly append?: boolean },
    options?: CallOptions,
  ): Promise<number>;
  space(identity: TsiIdentity, path: string, options?: CallOptions): Promise<Space>;
  /** @returns the batch system's id of the job; empty for `allocate` */
  submit(identity: TsiIdentity, submission: Submission, options?: CallOptions): Promise<string>;
  /** All jobs the batch system still has. A job that is missing has ended. */
  status(options?: CallOptions): Promise<ReadonlyMap<string, BssEntry>>;
  abort(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<void>;
  details(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<string>;
  hold(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<void>;
  resume(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<void>;
  /**
   * Runs a script beside the batch system. Our agent starts an attempt once, as TSIs below 10.2 do by the
   * background script that stands in for the command there.
   * @returns the pid, which leads its session
   */
  runOnLoginNode(identity: TsiIdentity, run: LoginNodeRun, options?: CallOptions): Promise<string>;
  /** The processes that live there. */
  processes(options?: CallOptions): Promise<ReadonlySet<number>>;
  /** Ends a run on the login node with its whole session; one that has ended is left as it is. */
  killOnLoginNode(identity: TsiIdentity, pid: string, options?: CallOptions): Promise<void>;
  /** Whether files there may have access control lists. */
  aclSupport(identity: TsiIdentity, path: string, options?: CallOptions): Promise<boolean>;
  /** Entries beyond those of owner, group and others, which are the permissions. */
  getAcl(identity: TsiIdentity, path: string, options?: CallOptions): Promise<AclEntry[]>;
  setAcl(
    identity: TsiIdentity,
    path: string,
    change: AclChange,
    options?: CallOptions,
  ): Promise<void>;
  /** By name; empty where the batch system has none. */
  partitions(identity: TsiIdentity, options?: CallOptions): Promise<Record<string, Partition>>;
  budget(identity: TsiIdentity, options?: CallOptions): Promise<Budget[]>;
  userInfo(identity: TsiIdentity, options?: CallOptions): Promise<UserInfo>;
  /** @returns its reference, for jobs. @throws `TSI_FAILED` in the words of a batch system that refuses */
  makeReservation(
    identity: TsiIdentity,
    request: ReservationRequest,
    options?: CallOptions,
  ): Promise<string>;
  queryReservation(
    identity: TsiIdentity,
    reference: string,
    options?: CallOptions,
  ): Promise<Reservation>;
  /** One that is over, or gone, is fine. */
  cancelReservation(identity: TsiIdentity, reference: string, options?: CallOptions): Promise<void>;
};

/** Several TSIs of one target system, each of them a login node. */
export type LoginNodes = {
  /** @throws `BAD_REQUEST` when no node is called so */
  check(wish: string): void;
  /**
   * A node to stay with, for what lives on the node itself: processes on a login node.
   * @param wish a name, its beginning up to a dot, with `*` and `?`, or `x:category` (§1.7)
   * @throws `BAD_REQUEST` when no node is called so; `TSI_UNAVAILABLE` when none of those answers
   */
  choose(wish?: string): string;
  /** The node of that name alone. @throws `BAD_REQUEST` */
  on(nodeName: string): Tsi;
};

/** A worker's two channels, both ours alone until they end. */
export type WorkerChannels = { readonly command: Duplex; readonly data: Duplex };

/** How a worker is reached: the classic call-back handshake over TCP, or streams of an agent link. */
export type TsiTransport = {
  /** For logs: `tcp 10.0.0.7:4433`, `channel <vm>`. */
  readonly name: string;
  /** Asks for a worker. @throws `TSI_UNAVAILABLE` */
  open(signal: AbortSignal): Promise<WorkerChannels>;
  /**
   * A connection to a service that the user can reach from there: `host:port`, or `file:<path>` of a
   * socket. Either side may end its half first.
   * @throws `TSI_UNAVAILABLE`; `TSI_FAILED` where the TSI says that there is no such service
   */
  forward?(identity: TsiIdentity, service: string, signal: AbortSignal): Promise<Duplex>;
};
