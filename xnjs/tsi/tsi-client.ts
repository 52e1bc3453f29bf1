import { Readable } from 'node:stream';
import type { Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import * as commands from '#tsi/protocol/commands.js';
import { TsiError } from '#tsi/protocol/error.js';
import { decodeListing } from '#tsi/protocol/listing.js';
import type { Command } from '#tsi/protocol/message.js';
import { decodeSpace, decodeStatus } from '#tsi/protocol/status.js';
import type { AclEntry, BssEntry, CallOptions, Tsi, TsiIdentity, TsiTransport } from './tsi.js';
import { chunksOf } from './chunks.js';
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
  /** Whom stock TSIs list jobs as; must exist there. Our agent needs no one. */
  readonly systemIdentity?: TsiIdentity;
};

export type TsiClient = Tsi & AsyncDisposable;

/** A TSI by whatever carries it. Workers are opened when they are needed; nothing is sent before. */
export function createTsi(transport: TsiTransport, options: TsiOptions): TsiClient {
  return new PooledTsi(transport, options);
}

class PooledTsi implements TsiClient {
  readonly #pool: WorkerPool;
  readonly #options: Required<Omit<TsiOptions, keyof PoolOptions>>;

  constructor(transport: TsiTransport, options: TsiOptions) {
    const log = options.log.child({ part: 'xnjs.tsi', tsi: transport.name });
    this.#options = {
      callMs: 60_000,
      executeMs: 180_000,
      chunkBytes: 1024 * 1024,
      interpreter: '/bin/bash',
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

  aclSupport(): Promise<boolean> {
    return Promise.resolve(false);
  }

  getAcl(): Promise<AclEntry[]> {
    return Promise.reject(new GridError('NOT_IMPLEMENTED', 'access control lists are not spoken'));
  }

  setAcl(): Promise<void> {
    return Promise.reject(new GridError('NOT_IMPLEMENTED', 'access control lists are not spoken'));
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

  /** Sent again only where that is known to be harmless: to an agent that knows the attempt by its id. */
  async submit(...[identity, submission, options]: Parameters<Tsi['submit']>): Promise<string> {
    let harmless = true;
    const call = this.#caller(commands.submit, { ...submission, literal: true }, identity);
    const id = await this.#again(
      () =>
        this.#use(options, (worker) => {
          harmless = worker.can('submit-id');
          return call(worker);
        }),
      () => harmless,
    );
    if (/^\S{1,256}$/.test(id.trim())) return id.trim();
    throw new TsiError('TSI_PROTOCOL', 'the TSI answers a submission without a job id', {
      reply: id.slice(0, 200),
    });
  }

  read(...[identity, path, range = {}, options]: Parameters<Tsi['read']>): Readable {
    const { offset = 0, length = Number.MAX_SAFE_INTEGER } = range;
    const chunks = this.#chunks(identity, path, offset, length, options);
    return Readable.from(chunks, { objectMode: false, highWaterMark: this.#options.chunkBytes });
  }

  /** One chunk ahead of the reader, so that the channel is busy while the reader is. */
  async *#chunks(
    identity: TsiIdentity,
    path: string,
    offset: number,
    length: number,
    options?: CallOptions,
  ): AsyncGenerator<Buffer, void, undefined> {
    const fetch = (at: number): Promise<Buffer[]> => {
      const wanted = Math.min(this.#options.chunkBytes, length - at);
      const value = { path, offset: offset + at, length: wanted, literal: true };
      const message = commands.getFileChunk.encode(value, identity);
      const chunk = this.#again(() => this.#use(options, (worker) => worker.get(message, wanted)));
      chunk.catch(() => undefined); // the reader may have left before it is due
      return chunk;
    };
    let at = 0;
    let next = length > 0 ? fetch(0) : undefined;
    while (next) {
      const chunk: Buffer[] = await next;
      const size = chunk.reduce((sum, { length: bytes }) => sum + bytes, 0);
      at += size;
      const full = size === Math.min(this.#options.chunkBytes, length - at + size);
      next = full && at < length ? fetch(at) : undefined;
      yield* chunk;
    }
  }

  async write(...[identity, path, source, how = {}, options]: Parameters<Tsi['write']>) {
    const { mode = 0o600, append = false } = how;
    let written = 0;
    for await (const { chunks, size } of chunksOf(source, this.#options.chunkBytes)) {
      const action = append || written > 0 ? commands.appendAction : '0';
      const value = { action, file: { path, mode }, length: size, literal: true };
      const message = commands.putFileChunk.encode(value, identity);
      await this.#use(options, (worker) => worker.put(message, chunks));
      written += size;
    }
    return written;
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

  #caller<T>(
    command: Command<T>,
    value: T,
    identity: TsiIdentity,
  ): (worker: Worker) => Promise<string> {
    const { interpreter } = this.#options;
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
