import cluster, { type Worker } from 'node:cluster';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { fileURLToPath } from 'node:url';
import { ConfigError, loadConfig } from '#kernel/config.js';
import { errorText } from '#kernel/errors.js';
import { ListenError } from '#kernel/http/listen.js';
import type { Log } from '#kernel/log.js';
import { GatewayConfig } from './config.js';
import { listen, urlOf } from './listen.js';
import type { Registered } from './registration.js';
import type { ToWorker } from './worker.js';

/** What workers say; they are ours, so it is believed. */
export type FromWorker =
  | { type: 'ready' }
  | { type: 'listening'; acmePort?: number | undefined }
  | { type: 'failed'; code?: string | undefined; reason: string }
  | { type: 'registered'; key: string; site: Registered };

export type PoolDeps = {
  readonly log: Log;
  readonly configFile?: string | undefined;
  readonly fd?: number | undefined;
};

const startMs = 60_000;
/** Beyond the time for draining. */
const patienceMs = 5_000;
const respawnMs = 1_000;

/**
 * A gateway of several processes. This one takes the connections and hands them out in turn; a worker that dies is
 * replaced. Not left to node:cluster, whose primary drops what it has accepted when its last worker stops listening:
 * here a worker is told to end by the same channel, after all its connections.
 */
export class WorkerPool {
  readonly #deps: PoolDeps;
  readonly #log: Log;
  readonly #ticketSecret = randomBytes(48).toString('base64');
  readonly #registered = new Map<string, Registered>();
  readonly #workers = new Set<Worker>();
  #config: GatewayConfig;
  #restarting: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;
  readonly #server: Server;
  /** Those that take connections; the next one's turn first. */
  #ready: Worker[] = [];
  /** Accepted while no worker was there. */
  #waiting: Socket[] = [];
  /** Given to a worker and not sent yet: Node sends one at a time, and forgets the others when the worker dies. */
  readonly #unsent = new Map<Socket, Worker>();
  #port = 0;
  #acmePort: number | undefined;

  /** @throws {@link ListenError} `ADDRESS_IN_USE`, `ConfigError` for files that cannot be read */
  static async start(config: GatewayConfig, deps: PoolDeps): Promise<WorkerPool> {
    const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
    cluster.setupPrimary({
      exec: fileURLToPath(new URL(`./worker.${extension}`, import.meta.url)),
      args: [],
    });
    const pool = new WorkerPool(config, deps);
    try {
      await pool.#listen();
      // The first alone: what is wrong is said once
      await pool.#spawn();
      await Promise.all(Array.from({ length: config.workers - 1 }, () => pool.#spawn()));
      return pool;
    } catch (error) {
      await pool.close();
      throw error;
    }
  }

  private constructor(config: GatewayConfig, deps: PoolDeps) {
    this.#config = config;
    this.#deps = deps;
    this.#log = deps.log;
    // Not a byte is read here
    this.#server = createServer({ pauseOnConnect: true }, (socket) => this.#handOut(socket));
    this.#server.maxConnections = config.limits.connections;
  }

  get url(): string {
    return urlOf(this.#config.listen.host, this.#port);
  }

  get acmePort(): number | undefined {
    return this.#acmePort;
  }

  reload(): Promise<void> {
    for (const worker of this.#workers) tell(worker, { type: 'reload' });
    return Promise.resolve();
  }

  /** Replaces the workers one after another, each by one that listens already. */
  restart(): Promise<void> {
    return (this.#restarting = this.#restarting.then(() => this.#restart()));
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #listen(): Promise<void> {
    const { fd } = this.#deps;
    const { listen: where } = this.#config;
    this.#port = await listen(this.#server, fd === undefined ? where : { ...where, fd }, this.#log);
  }

  /** What is accepted already has gone to a worker; what is not stays with the socket for whoever has it next. */
  async #close(): Promise<void> {
    this.#server.close();
    // A restart under way has workers of its own to wait for
    await Promise.all([...[...this.#workers].map((each) => this.#end(each)), this.#restarting]);
    for (const socket of this.#waiting.splice(0)) socket.destroy();
  }

  #handOut(socket: Socket): void {
    const worker = this.#ready.shift();
    if (!worker) {
      this.#waiting.push(socket);
      return;
    }
    if (!worker.isConnected()) {
      this.#handOut(socket);
      return;
    }
    this.#ready.push(worker);
    this.#unsent.set(socket, worker);
    worker.send({ type: 'connection' } satisfies ToWorker, socket, (err) => {
      this.#unsent.delete(socket);
      if (err) this.#log.debug({ err }, 'connection lost with its worker');
    });
  }

  /** What a worker that is gone was never sent. */
  #handOutAgain(gone: Worker): void {
    this.#ready = this.#ready.filter((each) => each !== gone);
    for (const [socket, worker] of this.#unsent) {
      if (worker !== gone) continue;
      this.#unsent.delete(socket);
      if (this.#closing) socket.destroy();
      else this.#handOut(socket);
    }
  }

  /** Not one that was told to end before it listened. */
  #join(worker: Worker): void {
    if (!this.#workers.has(worker)) return;
    this.#ready.push(worker);
    for (const socket of this.#waiting.splice(0)) this.#handOut(socket);
  }

  #leave(worker: Worker): void {
    this.#workers.delete(worker);
    this.#ready = this.#ready.filter((each) => each !== worker);
  }

  async #restart(): Promise<void> {
    try {
      const { configFile } = this.#deps;
      if (configFile !== undefined) this.#config = await loadConfig(configFile, GatewayConfig);
      const old = [...this.#workers];
      for (let i = 0; i < Math.max(old.length, this.#config.workers); i++) {
        if (this.#closing) return;
        if (i < this.#config.workers) await this.#spawn();
        const worker = old[i];
        if (worker) await this.#end(worker);
      }
      this.#log.info({ workers: this.#workers.size }, 'workers replaced');
    } catch (err) {
      if (this.#closing) return;
      this.#log.error({ err }, 'workers not replaced, those that are there go on');
    }
  }

  /** Resolves when it listens. */
  async #spawn(): Promise<void> {
    const worker = cluster.fork();
    this.#workers.add(worker);
    // Either may come first, and of one that is killed with more to be sent to it only the end is heard
    for (const over of ['disconnect', 'exit']) worker.once(over, () => this.#handOutAgain(worker));
    try {
      await this.#started(worker);
    } catch (error) {
      this.#leave(worker);
      worker.process.kill('SIGKILL');
      throw error;
    }
    worker.once('exit', (code, signal) => this.#lost(worker, code, signal));
  }

  async #started(worker: Worker): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        const fail = (reason: string) => reject(new ConfigError('CONFIG_INVALID', reason));
        timer = setTimeout(() => fail('a worker does not start'), startMs);
        worker.once('exit', () => fail('a worker ended at its start'));
        worker.on('message', (message: FromWorker) => {
          if (message.type === 'ready') tell(worker, this.#order());
          else if (message.type === 'registered') this.#share(worker, message);
          else if (message.type === 'failed') reject(toError(message));
          else {
            this.#acmePort = message.acmePort;
            this.#join(worker);
            resolve();
          }
        });
      });
    } finally {
      clearTimeout(timer);
    }
  }

  /** What a worker needs to know; limits on connections are shared out. */
  #order(): ToWorker {
    const { limits, workers } = this.#config;
    const { log, configFile } = this.#deps;
    const share = (count: number) => Math.ceil(count / workers);
    const config = {
      ...this.#config,
      limits: {
        ...limits,
        connections: share(limits.connections),
        connectionsPerClient: share(limits.connectionsPerClient),
      },
    };
    return {
      ...{ type: 'start', config, configFile, port: this.#port, level: log.level },
      ticketSecret: this.#ticketSecret,
      registered: [...this.#registered.values()],
    };
  }

  /** What one worker was told all have to know. */
  #share(from: Worker, { key, site }: { key: string; site: Registered }): void {
    this.#registered.set(key, site);
    for (const worker of this.#workers)
      if (worker !== from) tell(worker, { type: 'register', site });
  }

  #lost(worker: Worker, code: number, signal: string): void {
    if (!this.#workers.has(worker)) return;
    this.#leave(worker);
    if (this.#closing) return;
    this.#log.error(
      { pid: worker.process.pid, code, signal },
      'worker died, another takes its place',
    );
    this.#replaceLater();
  }

  /** Tried until it is done: what a worker reads at its start may be wrong for a while only. */
  #replaceLater(): void {
    setTimeout(() => {
      if (this.#closing || this.#workers.size >= this.#config.workers) return;
      this.#spawn().catch((err: unknown) => {
        if (this.#closing) return;
        this.#log.error({ err }, 'no worker takes its place, trying again');
        this.#replaceLater();
      });
    }, respawnMs).unref();
  }

  async #end(worker: Worker): Promise<void> {
    this.#leave(worker);
    if (worker.isDead()) return;
    const ended = once(worker, 'exit');
    tell(worker, { type: 'close' });
    const limitMs = this.#config.limits.drainSeconds * 1000 + patienceMs;
    const timer = setTimeout(() => worker.process.kill('SIGKILL'), limitMs);
    await ended;
    clearTimeout(timer);
  }
}

function tell(worker: Worker, message: ToWorker): void {
  // One that is just dying is heard of elsewhere
  if (worker.isConnected()) worker.send(message, () => undefined);
}

function toError({ code, reason }: { code?: string | undefined; reason: string }): Error {
  return code === 'ADDRESS_IN_USE'
    ? new ListenError('ADDRESS_IN_USE', reason)
    : new ConfigError('CONFIG_INVALID', errorText(reason));
}
