import type { Readable } from 'node:stream';
import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import { decodeAcl, decodeAclSupport } from '#tsi/protocol/acl.js';
import * as commands from '#tsi/protocol/commands.js';
import { TsiError } from '#tsi/protocol/error.js';
import {
  decodeBudget,
  decodePartitions,
  decodeReservation,
  decodeUserInfo,
} from '#tsi/protocol/information.js';
import { decodeListing } from '#tsi/protocol/listing.js';
import type { AgentExtension } from '#tsi/protocol/reply.js';
import { decodeSpace, decodeStatus } from '#tsi/protocol/status.js';
import type { ScriptHeader } from '../idb/script-header.js';
import type {
  AclEntry,
  BssEntry,
  Budget,
  CallOptions,
  Tsi,
  TsiIdentity,
  TsiTransport,
  UserInfo,
} from './tsi.js';
import { Calls } from './calls.js';
import { FileContent } from './file-content.js';
import {
  backgroundScript,
  checkPid,
  killScript,
  pidScript,
  runOnLoginNodeSince,
} from './login-node.js';
import { isAtLeast } from './version.js';
import type { Worker } from './worker.js';
import { WorkerPool, type PoolOptions } from './worker-pool.js';

export type TsiOptions = Partial<Omit<PoolOptions, 'clock' | 'log'>> & {
  readonly clock: Clock;
  readonly log: Log;
  /** Deadlines of one command and of one script. */
  readonly callMs?: number;
  readonly executeMs?: number;
  /** Bytes of a file that travel by one command. */
  readonly chunkBytes?: number;
  /** First line of each script: how the image's shell is called. */
  readonly interpreter?: string;
  /** First lines of each script, `#!` included, instead of `interpreter`; asked for each time. */
  readonly scriptHeader?: () => ScriptHeader;
  /** Whom stock TSIs list jobs as; must exist there. Our agent needs no one. */
  readonly systemIdentity?: TsiIdentity;
};

export type TsiClient = Tsi &
  AsyncDisposable & {
    /** Whether the TSI is our agent, and one that can do this, as it says itself. */
    can(extension: AgentExtension, options?: CallOptions): Promise<boolean>;
  };

/** A TSI by whatever carries it. Workers are opened when they are needed; nothing is sent before. */
export function createTsi(transport: TsiTransport, options: TsiOptions): TsiClient {
  return new PooledTsi(transport, options);
}

/**
 * A worker of the original leaves its children as zombies until it is used again, and its own list does not
 * tell them apart with each `ps` (procps 4.0.2 has no `<defunct>` there).
 */
const livingScript = "ps -e -o pid=,stat= | awk '$2 !~ /^Z/ { print $1 }'";

class PooledTsi implements TsiClient {
  readonly #pool: WorkerPool;
  readonly #calls: Calls;
  readonly #content: FileContent;
  /** Of what is asked for nobody in particular. */
  readonly #systemIdentity: TsiIdentity;

  constructor(transport: TsiTransport, options: TsiOptions) {
    this.#pool = new WorkerPool(transport, {
      workers: 4,
      queueMs: 60_000,
      openMs: 15_000,
      pingAfterMs: 5_000,
      ...options,
    });
    this.#calls = new Calls(this.#pool, {
      callMs: 60_000,
      executeMs: 180_000,
      interpreter: '/bin/bash',
      scriptHeader: () => ({}),
      ...options,
    });
    const { chunkBytes = 4 * 1024 * 1024, systemIdentity } = options;
    this.#content = new FileContent(this.#calls, chunkBytes);
    this.#systemIdentity = systemIdentity ?? { login: 'unicore', groups: 'DEFAULT_GID' };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#pool[Symbol.asyncDispose]();
  }

  ping(options?: CallOptions): Promise<string> {
    return this.#calls.repeat(options, async (worker) => {
      await worker.ping();
      return worker.version;
    });
  }

  can(extension: AgentExtension, options?: CallOptions): Promise<boolean> {
    // each worker has answered a ping before it is given out
    return this.#calls.use(options, (worker) => Promise.resolve(worker.can(extension)));
  }

  execute(identity: TsiIdentity, script: string, options?: CallOptions): Promise<string> {
    return this.#calls.execute(identity, script, options);
  }

  async list(
    identity: TsiIdentity,
    path: string,
    mode: 'A' | 'N' | 'R',
    options?: CallOptions,
  ): ReturnType<Tsi['list']> {
    const value = { path, mode, literal: true };
    return decodeListing(await this.#calls.ask(commands.listFiles, value, identity, options));
  }

  async space(
    identity: TsiIdentity,
    path: string,
    options?: CallOptions,
  ): ReturnType<Tsi['space']> {
    const value = { path, literal: true };
    return decodeSpace(await this.#calls.ask(commands.diskSpace, value, identity, options));
  }

  async status(options?: CallOptions): Promise<ReadonlyMap<string, BssEntry>> {
    return decodeStatus(
      await this.#calls.ask(commands.statusListing, {}, this.#systemIdentity, options),
    );
  }

  details(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<string> {
    return this.#calls.ask(commands.jobDetails, { bssId }, identity, options);
  }

  /** Stock TSIs refuse for a job that has ended; what is not listed is none. */
  async abort(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<void> {
    try {
      await this.#calls.ask(commands.abortJob, { bssId }, identity, options);
    } catch (error) {
      const refused = error instanceof TsiError && error.code === 'TSI_FAILED';
      if (!refused || (await this.status(options)).has(bssId)) throw error;
    }
  }

  async hold(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<void> {
    await this.#calls.ask(commands.holdJob, { bssId }, identity, options);
  }

  async resume(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<void> {
    await this.#calls.ask(commands.resumeJob, { bssId }, identity, options);
  }

  /** Sent again only where that is known to be harmless: to an agent that knows the attempt by its id. */
  async submit(...[identity, submission, options]: Parameters<Tsi['submit']>): Promise<string> {
    const call = this.#calls.caller(commands.submit, { ...submission, literal: true }, identity);
    const id = await this.#calls.once(options, call, (worker) => worker.can('submit-id'));
    if (submission.mode === 'allocate') return '';
    if (/^\S{1,256}$/.test(id.trim())) return id.trim();
    throw new TsiError('TSI_PROTOCOL', 'the TSI answers a submission without a job id', {
      reply: id.slice(0, 200),
    });
  }

  async runOnLoginNode(...[identity, run, options]: Parameters<Tsi['runOnLoginNode']>) {
    const native = (worker: Worker): boolean => isAtLeast(worker.version, runOnLoginNodeSince);
    const call = this.#calls.caller(commands.runOnLoginNode, { ...run, literal: true }, identity);
    const script = (text: string, discardOutput: boolean) =>
      this.#calls.caller(commands.executeScript, { script: text, discardOutput }, identity);
    const start = script(backgroundScript(run), true);
    const wait = script(pidScript(run), false);
    const pid = await this.#calls.once(
      options,
      async (worker) => {
        if (native(worker)) return call(worker);
        await start(worker);
        return wait(worker);
      },
      (worker) => worker.can('submit-id') || !native(worker),
    );
    return checkPid(pid);
  }

  async processes(options?: CallOptions): Promise<ReadonlySet<number>> {
    const list = this.#calls.caller(commands.processListing, {}, this.#systemIdentity);
    const ps = this.#calls.caller(
      commands.executeScript,
      { script: livingScript },
      this.#systemIdentity,
    );
    const text = await this.#calls.repeat(options, (worker) =>
      (worker.can('ordered-header') ? list : ps)(worker),
    );
    const pids = text.split('\n').flatMap((line) => /^\s*(\d{1,10})\b/.exec(line)?.[1] ?? []);
    return new Set(pids.map(Number));
  }

  async killOnLoginNode(identity: TsiIdentity, pid: string, options?: CallOptions): Promise<void> {
    const call = this.#calls.caller(commands.executeScript, { script: killScript(pid) }, identity);
    await this.#calls.repeat(options, call);
  }

  async aclSupport(identity: TsiIdentity, path: string, options?: CallOptions): Promise<boolean> {
    const value = { operation: 'CHECK_SUPPORT', path, literal: true } as const;
    return decodeAclSupport(await this.#calls.ask(commands.fileAcl, value, identity, options));
  }

  async getAcl(identity: TsiIdentity, path: string, options?: CallOptions): Promise<AclEntry[]> {
    const value = { operation: 'GETFACL', path, literal: true } as const;
    const entries = decodeAcl(await this.#calls.ask(commands.fileAcl, value, identity, options));
    return entries.filter(({ subject }) => subject !== '');
  }

  async setAcl(...[identity, path, change, options]: Parameters<Tsi['setAcl']>): Promise<void> {
    const { operation: command, recursive = false, entry } = change;
    const spec = command === 'RM_ALL' ? undefined : entry;
    const how = { operation: 'SETFACL', change: { command, recursive }, spec } as const;
    await this.#calls.ask(commands.fileAcl, { ...how, path, literal: true }, identity, options);
  }

  async partitions(identity: TsiIdentity, options?: CallOptions): ReturnType<Tsi['partitions']> {
    const call = this.#calls.caller(commands.getPartitions, {}, identity);
    const none = (): Promise<string> => Promise.resolve('{}');
    const text = await this.#calls.repeat(options, (worker) =>
      (isAtLeast(worker.version, '10.0') ? call : none)(worker),
    );
    return decodePartitions(text);
  }

  async budget(identity: TsiIdentity, options?: CallOptions): Promise<Budget[]> {
    return decodeBudget(await this.#calls.ask(commands.computeBudget, {}, identity, options));
  }

  async userInfo(identity: TsiIdentity, options?: CallOptions): Promise<UserInfo> {
    return decodeUserInfo(await this.#calls.ask(commands.userInfo, {}, identity, options));
  }

  /** Sent again only to an agent, which knows the reservation by its id. */
  async makeReservation(...[identity, request, options]: Parameters<Tsi['makeReservation']>) {
    const call = this.#calls.caller(commands.makeReservation, request, identity);
    const reference = await this.#calls.once(options, call, (worker) => worker.can('submit-id'));
    if (/^\S{1,256}$/.test(reference.trim())) return reference.trim();
    throw new TsiError('TSI_PROTOCOL', 'the TSI answers a reservation without a reference');
  }

  async queryReservation(...[identity, reference, options]: Parameters<Tsi['queryReservation']>) {
    return decodeReservation(
      await this.#calls.ask(commands.queryReservation, { reference }, identity, options),
    );
  }

  async cancelReservation(
    ...[identity, reference, options]: Parameters<Tsi['cancelReservation']>
  ): Promise<void> {
    await this.#calls.ask(commands.cancelReservation, { reference }, identity, options);
  }

  read(...asked: Parameters<Tsi['read']>): Readable {
    return this.#content.read(...asked);
  }

  write(...asked: Parameters<Tsi['write']>): Promise<number> {
    return this.#content.write(...asked);
  }
}
