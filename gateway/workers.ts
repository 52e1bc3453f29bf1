import cluster, { type Worker } from 'node:cluster';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { ConfigError, loadConfig } from '#kernel/config.js';
import { errorText } from '#kernel/errors.js';
import { ListenError } from '#kernel/http/listen.js';
import type { Log } from '#kernel/log.js';
import { GatewayConfig } from './config.js';
import type { Registered } from './registration.js';
import type { ToWorker } from './worker.js';

/** What workers say; they are ours, so it is believed. */
export type FromWorker =
  | { type: 'ready' }
  | { type: 'listening'; url: string; acmePort?: number | undefined }
  | { type: 'failed'; code?: string | undefined; reason: string }
  | { type: 'registered'; site: Registered };

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
 * A gateway of several processes. This one takes the connections and hands them out in turn (node:cluster), so
 * that none is lost between a worker that goes and one that comes; a worker that dies is replaced.
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
  #listening: { url: string; acmePort?: number | undefined } = { url: '' };

  /** @throws {@link ListenError} `ADDRESS_IN_USE`, `ConfigError` for files that cannot be read */
  static async start(config: GatewayConfig, deps: PoolDeps): Promise<WorkerPool> {
    const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
    cluster.setupPrimary({
      exec: fileURLToPath(new URL(`./worker.${extension}`, import.meta.url)),
      args: [],
    });
    const pool = new WorkerPool(config, deps);
    try {
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
  }

  get url(): string {
    return this.#listening.url;
  }

  get acmePort(): number | undefined {
    return this.#listening.acmePort;
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
    return (this.#closing ??= Promise.all([...this.#workers].map((each) => this.#end(each))).then(
      () => undefined,
    ));
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
      this.#log.error({ err }, 'workers not replaced, those that are there go on');
    }
  }

  /** Resolves when it listens. */
  async #spawn(): Promise<void> {
    const worker = cluster.fork();
    this.#workers.add(worker);
    worker.once('exit', (code, signal) => this.#lost(worker, code, signal));
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        const fail = (reason: string) => reject(new ConfigError('CONFIG_INVALID', reason));
        timer = setTimeout(() => fail('a worker does not start'), startMs);
        worker.once('exit', () => fail('a worker ended at its start'));
        worker.on('message', (message: FromWorker) => {
          if (message.type === 'ready') tell(worker, this.#order());
          else if (message.type === 'registered') this.#share(worker, message.site);
          else if (message.type === 'failed') reject(toError(message));
          else {
            this.#listening = message;
            resolve();
          }
        });
      });
    } catch (error) {
      this.#workers.delete(worker);
      worker.process.kill('SIGKILL');
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** What a worker needs to know; limits on connections are shared out. */
  #order(): ToWorker {
    const { limits, workers } = this.#config;
    const { log, configFile, fd } = this.#deps;
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
      ...{ type: 'start', config, configFile, fd, level: log.level },
      ticketSecret: this.#ticketSecret,
      registered: [...this.#registered.values()],
    };
  }

  /** What one worker was told all have to know. */
  #share(from: Worker, site: Registered): void {
    this.#registered.set(`${site.name.toLowerCase()} ${site.address}`, site);
    for (const worker of this.#workers)
      if (worker !== from) tell(worker, { type: 'register', site });
  }

  #lost(worker: Worker, code: number, signal: string): void {
    if (!this.#workers.delete(worker) || this.#closing) return;
    this.#log.error(
      { pid: worker.process.pid, code, signal },
      'worker died, another takes its place',
    );
    setTimeout(() => {
      if (this.#closing || this.#workers.size >= this.#config.workers) return;
      this.#spawn().catch((err: unknown) => this.#log.error({ err }, 'no worker takes its place'));
    }, respawnMs).unref();
  }

  async #end(worker: Worker): Promise<void> {
    this.#workers.delete(worker);
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
