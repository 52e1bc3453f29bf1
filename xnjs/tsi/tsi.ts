import type { Duplex, Readable } from 'node:stream';
import type { ListedFile } from '#tsi/protocol/listing.js';

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

/** One entry of `#TSI_FILE_ACL` beyond owner, group and others. `permissions` like `rw-`. */
export type AclEntry = {
  readonly type: 'user' | 'group';
  readonly subject: string;
  readonly permissions: string;
  readonly isDefault: boolean;
};
export type AclChange = {
  readonly operation: 'MODIFY' | 'RM' | 'RM_ALL';
  readonly recursive?: boolean;
  readonly entry?: AclEntry;
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
  aclSupport(identity: TsiIdentity, path: string, options?: CallOptions): Promise<boolean>;
  getAcl(identity: TsiIdentity, path: string, options?: CallOptions): Promise<AclEntry[]>;
  setAcl(
    identity: TsiIdentity,
    path: string,
    change: AclChange,
    options?: CallOptions,
  ): Promise<void>;
  /** @returns the batch system's id of the job */
  submit(identity: TsiIdentity, submission: Submission, options?: CallOptions): Promise<string>;
  /** All jobs the batch system still has. A job that is missing has ended. */
  status(options?: CallOptions): Promise<ReadonlyMap<string, BssEntry>>;
  abort(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<void>;
  details(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<string>;
};

/** A worker's two channels, both ours alone until they end. */
export type WorkerChannels = { readonly command: Duplex; readonly data: Duplex };

/** How a worker is reached: the classic call-back handshake over TCP, or streams of an agent link. */
export type TsiTransport = {
  /** For logs: `tcp 10.0.0.7:4433`, `channel <vm>`. */
  readonly name: string;
  /** Asks for a worker. @throws `TSI_UNAVAILABLE` */
  open(signal: AbortSignal): Promise<WorkerChannels>;
};
