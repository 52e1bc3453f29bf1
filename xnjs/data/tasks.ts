import { randomUUID } from 'node:crypto';
import pLimit, { type LimitFunction } from 'p-limit';
import type { Clock } from '#kernel/clock.js';
import { asGridError, errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { siteOf } from '../staging/staging.js';
import { searchFiles } from '../storage/metadata.js';
import type { Storages } from '../storage/storages.js';
import type { Targets } from '../target.js';
import type { NewImage, SavedImages } from '../vm/snapshots/saved-images.js';
import type { DataConfig } from './config.js';
import { copyFiles } from './copy.js';
import { extractMetadata } from './extract.js';
import { OwnedRecords, type OwnedRecord, type RecordStore } from './owned-records.js';
import { storageFor, type Principal } from './principal.js';

/** What takes long; done again, it ends the same. */
export type TaskWork =
  | {
      readonly do: 'extract';
      readonly storageId: string;
      readonly path: string;
      readonly depth: number;
    }
  | {
      readonly do: 'copy';
      readonly storageId: string;
      readonly from: string;
      readonly to: string;
    }
  | {
      readonly do: 'search';
      readonly query: string;
      /** By the address of each, as its user wrote it. */
      readonly storages: Readonly<Record<string, string>>;
    }
  | { readonly do: 'saveImage'; readonly siteId: string; readonly image: NewImage };

export type TaskState = 'CREATED' | 'RUNNING' | 'SUCCESSFUL' | 'FAILED' | 'ABORTED';

export type Task = OwnedRecord & {
  readonly principal: Principal;
  /** The resource that it was asked of. */
  readonly serviceUrl: string;
  readonly work: TaskWork;
  readonly state: TaskState;
  /** For people. */
  readonly message: string;
  readonly exitCode?: number;
  readonly result: Readonly<Record<string, string>>;
};

export type TasksOptions = {
  readonly store: RecordStore<Task>;
  readonly storages: Pick<Storages, 'get'>;
  readonly targets: Pick<Targets, 'find'>;
  readonly savedImages: Pick<SavedImages, 'save'>;
  readonly config: Pick<DataConfig, 'recordSeconds' | 'perUser' | 'tasks'>;
  readonly clock: Clock;
  readonly log: Log;
};

/** For what is away a while: a storage being made, a database, a target system that starts. */
const retryMs = 2_000;
/** Results that are not told any more. */
const mostResults = 200;

/** What users ask for and do not wait for (unicore-rest 3.16): stored, and done again after a restart. */
export class Tasks implements AsyncDisposable {
  readonly records: OwnedRecords<Task>;
  readonly #options: TasksOptions;
  readonly #log: Log;
  readonly #slots: LimitFunction;
  readonly #running = new Map<string, AbortController>();
  readonly #closing = new AbortController();
  readonly #background = new Set<Promise<void>>();

  constructor(options: TasksOptions) {
    const { store, config } = options;
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.task' });
    this.#slots = pLimit(config.tasks);
    const mayGo = (task: Task): boolean => !isUnderWay(task);
    this.records = new OwnedRecords({ store, what: 'task', perUser: config.perUser, mayGo });
  }

  /** Begins again what was not over. Storages must be known by now. */
  async start(): Promise<void> {
    for (const task of await this.records.load()) if (isUnderWay(task)) this.#spawn(task.id);
  }

  /** Stores the wish and returns. */
  async create(wish: Pick<Task, 'principal' | 'serviceUrl' | 'work'>): Promise<Task> {
    const task: Task = {
      ...wish,
      ...{ id: randomUUID(), ownerDn: wish.principal.dn, tags: [], result: {} },
      ...{ state: 'CREATED', message: '' },
      createdMs: this.#options.clock.now(),
      terminationMs: this.latestTerminationMs(),
    };
    await this.records.add(task);
    this.#spawn(task.id);
    return task;
  }

  /** One that is over is left as it is. */
  async abort(id: string): Promise<void> {
    this.records.get(id);
    await this.records.update(id, (task) =>
      isUnderWay(task) ? { ...task, state: 'ABORTED', message: 'aborted', exitCode: 1 } : task,
    );
    this.#running.get(id)?.abort(new GridError('CONFLICT', 'the task was aborted'));
  }

  async destroy(id: string): Promise<void> {
    await this.abort(id);
    await this.records.remove(id);
  }

  latestTerminationMs(): number {
    const { clock, config } = this.#options;
    return clock.now() + config.recordSeconds * 1_000;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new GridError('SITE_UNAVAILABLE', 'tasks are closing'));
    await Promise.allSettled(this.#background);
  }

  #spawn(id: string): void {
    const work = this.#slots(() => this.#perform(id))
      .catch((error: unknown) => {
        if (!this.#closing.signal.aborted)
          this.#log.error({ taskId: id, err: error }, 'task failed unexpectedly');
      })
      .finally(() => this.#background.delete(work));
    this.#background.add(work);
  }

  /** Until it is over, or the server closes. */
  async #perform(id: string): Promise<void> {
    const stop = new AbortController();
    this.#running.set(id, stop);
    const signal = AbortSignal.any([stop.signal, this.#closing.signal]);
    try {
      for (;;) {
        signal.throwIfAborted();
        const task = await this.#change(id, { state: 'RUNNING' });
        if (!task || !isUnderWay(task)) return;
        try {
          const result = await this.#work(task, signal);
          await this.#change(id, { state: 'SUCCESSFUL', message: '', exitCode: 0, result });
          return;
        } catch (error) {
          signal.throwIfAborted();
          if (asGridError(error)?.row.retry !== true) {
            if (!asGridError(error)) this.#log.error({ taskId: id, err: error }, 'task failed');
            const message = asGridError(error) ? errorText(error) : 'internal server error';
            await this.#change(id, { state: 'FAILED', message, exitCode: 1 });
            return;
          }
          this.#log.info({ taskId: id, err: error }, 'task has to wait, trying again');
          await this.#options.clock.sleep(retryMs, signal);
        }
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      this.#running.delete(id);
    }
  }

  /** Not of what is over. */
  async #change(id: string, change: Partial<Task>): Promise<Task | undefined> {
    return await this.records.update(id, (task) =>
      isUnderWay(task) ? { ...task, ...change } : task,
    );
  }

  async #work({ id, work, principal }: Task, signal: AbortSignal): Promise<Task['result']> {
    const { storages, targets, savedImages, clock } = this.#options;
    const startedMs = clock.now();
    const took = (): { durationMillis: string } => ({
      durationMillis: String(clock.now() - startedMs),
    });
    switch (work.do) {
      case 'extract': {
        const storage = await storageFor(storages, work.storageId, principal, 'write');
        const space = storage.files(principal.dn);
        const { files, complete } = await extractMetadata(space, work.path, work.depth, signal);
        const documentsProcessed = String(files);
        return { documentsProcessed, complete: String(complete), ...took() };
      }
      case 'copy': {
        const storage = await storageFor(storages, work.storageId, principal, 'write');
        const { targetId } = storage;
        const target = targetId === undefined ? undefined : targets.find(targetId);
        const site = siteOf(storage.files(principal.dn), target);
        await copyFiles({ site, id, signal }, work, storage.metadata, clock);
        return took();
      }
      case 'saveImage': {
        const { siteId, image } = work;
        const saving = { taskId: id, siteId, image, callerDn: principal.dn };
        const tell = (message: string) => this.#change(id, { message });
        return { imageId: await savedImages.save(saving, tell, signal), ...took() };
      }
      case 'search':
        return { ...(await this.#search(work, principal, signal)), ...took() };
    }
  }

  async #search(
    { query, storages: wanted }: Extract<TaskWork, { do: 'search' }>,
    principal: Principal,
    signal: AbortSignal,
  ): Promise<Task['result']> {
    const found: string[] = [];
    for (const [url, id] of Object.entries(wanted)) {
      const storage = await storageFor(this.#options.storages, id, principal, 'read');
      if (!storage.metadata) continue;
      const { paths } = await searchFiles(storage.files(principal.dn), query, { signal });
      for (const path of paths)
        found.push(`${url}/files${path.split('/').map(encodeURIComponent).join('/')}`);
    }
    const told = found.slice(0, mostResults).map((url, at) => [`search-result-${at + 1}`, url]);
    return {
      resourceCount: String(found.length),
      storageCount: String(Object.keys(wanted).length),
      ...(Object.fromEntries(told) as Record<string, string>),
    };
  }
}

function isUnderWay({ state }: Task): boolean {
  return state === 'CREATED' || state === 'RUNNING';
}
