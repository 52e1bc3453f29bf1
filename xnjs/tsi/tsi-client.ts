import type { Readable } from 'node:stream';
import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import { LendingStream } from '#kernel/net/lending-stream.js';
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
import type { Command } from '#tsi/protocol/message.js';
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
import { chunkMemory } from './chunk-memory.js';
import { chunksOf } from './chunks.js';
import {
  backgroundScript,
  checkPid,
  killScript,
  pidScript,
  runOnLoginNodeSince,
} from './login-node.js';
import { isAtLeast } from './version.js';
import type { Worker } from './worker.js';
import { workerLost, WorkerPool, type PoolOptions } from './worker-pool.js';

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

/** `full`: as long as was asked for, so that more may follow. `ours`: our agent sent it. */
type Chunk = { readonly bytes: Buffer; readonly full: boolean; readonly ours: boolean };

/** What a reader is given at a time. */
const pieceBytes = 1024 * 1024;

function* piecesOf(chunk: Buffer): Generator<Buffer, void, undefined> {
  for (let at = 0; at < chunk.length; at += pieceBytes) yield chunk.subarray(at, at + pieceBytes);
}

/**
 * A worker of the original leaves its children as zombies until it is used again, and its own list does not
 * tell them apart with each `ps` (procps 4.0.2 has no `<defunct>` there).
 */
const livingScript = "ps -e -o pid=,stat= | awk '$2 !~ /^Z/ { print $1 }'";

class PooledTsi implements TsiClient {
  readonly #pool: WorkerPool;
  readonly #options: Required<Omit<TsiOptions, keyof PoolOptions>>;

  constructor(transport: TsiTransport, options: TsiOptions) {
    const log = options.log.child({ part: 'xnjs.tsi', tsi: transport.name });
    this.#options = {
      callMs: 60_000,
      executeMs: 180_000,
      chunkBytes: 4 * 1024 * 1024,
      interpreter: '/bin/bash',
      scriptHeader: () => ({}),
      systemIdentity: { login: 'unicore', groups: 'DEFAULT_GID' },
      ...options,
    };
    this.#pool = new WorkerPool(transport, {
      workers: 4,
      queueMs: 60_000,
      openMs: 15_000,
      pingAfterMs: 5_000,
      ...options,
      log,
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#pool[Symbol.asyncDispose]();
  }

  ping(options?: CallOptions): Promise<string> {
    return this.#again(async () =>
      this.#use(options, async (worker) => {
        await worker.ping();
        return worker.version;
      }),
    );
  }

  can(extension: AgentExtension, options?: CallOptions): Promise<boolean> {
    // each worker has answered a ping before it is given out
    return this.#use(options, (worker) => Promise.resolve(worker.can(extension)));
  }

  execute(identity: TsiIdentity, script: string, options?: CallOptions): Promise<string> {
    const { executeMs } = this.#options;
    const call = this.#caller(commands.executeScript, { script }, identity);
    return this.#pool.use(executeMs, options?.signal, call);
  }

  async list(
    identity: TsiIdentity,
    path: string,
    mode: 'A' | 'N' | 'R',
    options?: CallOptions,
  ): ReturnType<Tsi['list']> {
    const value = { path, mode, literal: true };
    return decodeListing(await this.#ask(commands.listFiles, value, identity, options));
  }

  async space(
    identity: TsiIdentity,
    path: string,
    options?: CallOptions,
  ): ReturnType<Tsi['space']> {
    const value = { path, literal: true };
    return decodeSpace(await this.#ask(commands.diskSpace, value, identity, options));
  }

  async status(options?: CallOptions): Promise<ReadonlyMap<string, BssEntry>> {
    const { systemIdentity } = this.#options;
    return decodeStatus(await this.#ask(commands.statusListing, {}, systemIdentity, options));
  }

  details(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<string> {
    return this.#ask(commands.jobDetails, { bssId }, identity, options);
  }

  /** Stock TSIs refuse for a job that has ended; what is not listed is none. */
  async abort(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<void> {
    try {
      await this.#ask(commands.abortJob, { bssId }, identity, options);
    } catch (error) {
      const refused = error instanceof TsiError && error.code === 'TSI_FAILED';
      if (!refused || (await this.status(options)).has(bssId)) throw error;
    }
  }

  async hold(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<void> {
    await this.#ask(commands.holdJob, { bssId }, identity, options);
  }

  async resume(identity: TsiIdentity, bssId: string, options?: CallOptions): Promise<void> {
    await this.#ask(commands.resumeJob, { bssId }, identity, options);
  }

  /** Sent again only where that is known to be harmless: to an agent that knows the attempt by its id. */
  async submit(...[identity, submission, options]: Parameters<Tsi['submit']>): Promise<string> {
    const call = this.#caller(commands.submit, { ...submission, literal: true }, identity);
    const id = await this.#once(options, call, (worker) => worker.can('submit-id'));
    if (submission.mode === 'allocate') return '';
    if (/^\S{1,256}$/.test(id.trim())) return id.trim();
    throw new TsiError('TSI_PROTOCOL', 'the TSI answers a submission without a job id', {
      reply: id.slice(0, 200),
    });
  }

  async runOnLoginNode(...[identity, run, options]: Parameters<Tsi['runOnLoginNode']>) {
    const native = (worker: Worker): boolean => isAtLeast(worker.version, runOnLoginNodeSince);
    const call = this.#caller(commands.runOnLoginNode, { ...run, literal: true }, identity);
    const script = (text: string, discardOutput: boolean) =>
      this.#caller(commands.executeScript, { script: text, discardOutput }, identity);
    const start = script(backgroundScript(run), true);
    const wait = script(pidScript(run), false);
    const pid = await this.#once(
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
    const { systemIdentity } = this.#options;
    const list = this.#caller(commands.processListing, {}, systemIdentity);
    const ps = this.#caller(commands.executeScript, { script: livingScript }, systemIdentity);
    const text = await this.#again(() =>
      this.#use(options, (worker) => (worker.can('ordered-header') ? list : ps)(worker)),
    );
    const pids = text.split('\n').flatMap((line) => /^\s*(\d{1,10})\b/.exec(line)?.[1] ?? []);
    return new Set(pids.map(Number));
  }

  async killOnLoginNode(identity: TsiIdentity, pid: string, options?: CallOptions): Promise<void> {
    const call = this.#caller(commands.executeScript, { script: killScript(pid) }, identity);
    await this.#again(() => this.#use(options, call));
  }

  async aclSupport(identity: TsiIdentity, path: string, options?: CallOptions): Promise<boolean> {
    const value = { operation: 'CHECK_SUPPORT', path, literal: true } as const;
    return decodeAclSupport(await this.#ask(commands.fileAcl, value, identity, options));
  }

  async getAcl(identity: TsiIdentity, path: string, options?: CallOptions): Promise<AclEntry[]> {
    const value = { operation: 'GETFACL', path, literal: true } as const;
    const entries = decodeAcl(await this.#ask(commands.fileAcl, value, identity, options));
    return entries.filter(({ subject }) => subject !== '');
  }

  async setAcl(...[identity, path, change, options]: Parameters<Tsi['setAcl']>): Promise<void> {
    const { operation: command, recursive = false, entry } = change;
    const spec = command === 'RM_ALL' ? undefined : entry;
    const how = { operation: 'SETFACL', change: { command, recursive }, spec } as const;
    await this.#ask(commands.fileAcl, { ...how, path, literal: true }, identity, options);
  }

  async partitions(identity: TsiIdentity, options?: CallOptions): ReturnType<Tsi['partitions']> {
    const call = this.#caller(commands.getPartitions, {}, identity);
    const none = (): Promise<string> => Promise.resolve('{}');
    const text = await this.#again(() =>
      this.#use(options, (worker) => (isAtLeast(worker.version, '10.0') ? call : none)(worker)),
    );
    return decodePartitions(text);
  }

  async budget(identity: TsiIdentity, options?: CallOptions): Promise<Budget[]> {
    return decodeBudget(await this.#ask(commands.computeBudget, {}, identity, options));
  }

  async userInfo(identity: TsiIdentity, options?: CallOptions): Promise<UserInfo> {
    return decodeUserInfo(await this.#ask(commands.userInfo, {}, identity, options));
  }

  /** Sent again only to an agent, which knows the reservation by its id. */
  async makeReservation(...[identity, request, options]: Parameters<Tsi['makeReservation']>) {
    const call = this.#caller(commands.makeReservation, request, identity);
    const reference = await this.#once(options, call, (worker) => worker.can('submit-id'));
    if (/^\S{1,256}$/.test(reference.trim())) return reference.trim();
    throw new TsiError('TSI_PROTOCOL', 'the TSI answers a reservation without a reference');
  }

  async queryReservation(...[identity, reference, options]: Parameters<Tsi['queryReservation']>) {
    return decodeReservation(
      await this.#ask(commands.queryReservation, { reference }, identity, options),
    );
  }

  async cancelReservation(
    ...[identity, reference, options]: Parameters<Tsi['cancelReservation']>
  ): Promise<void> {
    await this.#ask(commands.cancelReservation, { reference }, identity, options);
  }

  read(...[identity, path, range = {}, options]: Parameters<Tsi['read']>): Readable {
    const { offset = 0, length = Number.MAX_SAFE_INTEGER } = range;
    return new LendingStream((lends) =>
      this.#chunks(identity, path, offset, length, lends, options),
    );
  }

  /**
   * Ahead of the reader, so that the channel is busy while the reader is: by one chunk, and by two where
   * the TSI is our agent, which minds no question for what is behind the end of a file.
   */
  async *#chunks(
    identity: TsiIdentity,
    path: string,
    offset: number,
    length: number,
    lends: boolean,
    options?: CallOptions,
  ): AsyncGenerator<Buffer, void, undefined> {
    const { chunkBytes } = this.#options;
    let asked = 0;
    let ahead = 1;
    const coming: Promise<Chunk>[] = [];
    const ask = (): void => {
      while (coming.length < ahead && asked < length) {
        const wanted = Math.min(chunkBytes, length - asked);
        const more = asked + wanted < length;
        const value = { path, offset: offset + asked, length: wanted, literal: true, more };
        const chunk = this.#fetch(commands.getFileChunk.encode(value, identity), wanted, options);
        chunk.catch(() => undefined); // the reader may have left before it is due
        coming.push(chunk);
        asked += wanted;
      }
    };
    ask();
    for (let next = coming.shift(); next; next = coming.shift()) {
      const { bytes, full, ours } = await next;
      ahead = ours ? 2 : 1;
      if (full) ask();
      yield* piecesOf(bytes);
      if (lends && bytes.length === chunkBytes) chunkMemory.giveBack(bytes);
      if (!full) return;
    }
  }

  #fetch(message: string, wanted: number, options?: CallOptions): Promise<Chunk> {
    return this.#again(() =>
      this.#use(options, async (worker) => {
        const memory = (size: number): Buffer =>
          size === this.#options.chunkBytes ? chunkMemory.take(size) : Buffer.allocUnsafe(size);
        const bytes = await worker.get(message, wanted, memory);
        return { bytes, full: bytes.length === wanted, ours: worker.can('ordered-header') };
      }),
    );
  }

  /**
   * The next chunk is gathered while one is on its way. A full one is said to be followed by another; where it was
   * the last, an empty one ends the transfer: nobody can run a file that is open for writing.
   */
  async write(...[identity, path, source, how = {}, options]: Parameters<Tsi['write']>) {
    const { mode = 0o600, append = false } = how;
    const { chunkBytes } = this.#options;
    let written = 0;
    const put = async (chunks: readonly Buffer[], length: number): Promise<void> => {
      const action = append || written > 0 ? commands.appendAction : '0';
      const more = length === chunkBytes;
      const value = { action, file: { path, mode }, length, literal: true, more };
      const message = commands.putFileChunk.encode(value, identity);
      await this.#use(options, (worker) => worker.put(message, chunks));
      written += length;
    };
    const gathered = chunksOf(source, chunkBytes);
    try {
      let last = chunkBytes;
      for (let next = await gathered.next(); !next.done;) {
        const { chunks, size } = next.value;
        const sent = put(chunks, size);
        const following = gathered.next();
        following.catch(() => undefined); // waited for below
        await sent;
        last = size;
        next = await following;
      }
      if (last === chunkBytes) await put([], 0);
      return written;
    } catch (error) {
      source.destroy();
      throw error;
    }
  }

  /** A command that may be repeated. */
  #ask<T>(
    command: Command<T>,
    value: T,
    identity: TsiIdentity,
    options?: CallOptions,
  ): Promise<string> {
    const call = this.#caller(command, value, identity);
    return this.#again(() => this.#use(options, call));
  }

  /** A command that may be repeated only to a TSI that knows it again. */
  #once(
    options: CallOptions | undefined,
    call: (worker: Worker) => Promise<string>,
    harmlessTo: (worker: Worker) => boolean,
  ): Promise<string> {
    let harmless = true;
    return this.#again(
      () =>
        this.#use(options, (worker) => {
          harmless = harmlessTo(worker);
          return call(worker);
        }),
      () => harmless,
    );
  }

  #caller<T>(
    command: Command<T>,
    value: T,
    identity: TsiIdentity,
  ): (worker: Worker) => Promise<string> {
    const header = this.#options.scriptHeader();
    const lines = command.name === commands.executeScript.name ? header.execute : header.submit;
    const interpreter = lines?.replace(/^#!/, '') ?? this.#options.interpreter;
    return (worker) => {
      const guardScript = !worker.can('ordered-header');
      const message = command.encode(value, identity, { interpreter, guardScript });
      return worker.call(message, command.bare);
    };
  }

  #use<T>(options: CallOptions | undefined, work: (worker: Worker) => Promise<T>): Promise<T> {
    return this.#pool.use(this.#options.callMs, options?.signal, work);
  }

  /** Once more, on another worker, when the first was lost. */
  async #again<T>(call: () => Promise<T>, harmless: () => boolean = () => true): Promise<T> {
    try {
      return await call();
    } catch (error) {
      if (!workerLost(error) || !harmless()) throw error;
      return call();
    }
  }
}
