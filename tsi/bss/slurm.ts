import { join } from 'node:path';
import { userInfo } from 'node:os';
import { TsiError } from '../protocol/error.js';
import type { Budget, Partition } from '../protocol/information.js';
import type { BssEntry } from '../protocol/status.js';
import { cLocale, words } from './batch-commands.js';
import type { Bss, Host, JobRequest, Owner } from './bss.js';
import { JobRecords } from './job-records.js';
import { NoBatch } from './nobatch.js';
import { SlurmAllocations } from './slurm-allocations.js';
import { slurmCommands, type SlurmCommands } from './slurm-commands.js';
import {
  concernsWaiting,
  hasEnded,
  parseBudget,
  parseDetails,
  parsePartitions,
  parseQueue,
} from './slurm-output.js';
import { SlurmReservations } from './slurm-reservations.js';
import { SlurmSubmissions } from './slurm-submissions.js';

export type SlurmContext = {
  readonly host: Host;
  readonly stateDir: string;
  readonly properties: ReadonlyMap<string, string>;
};

type Queue = ReadonlyMap<string, BssEntry>;

/** While someone wants to hear of ends, and there is something that can end. */
const listenMs = 5_000;

/** Slurm, by its programs. Each does what it does as the job's owner; the queue is asked for by the agent. */
export class Slurm implements Bss {
  readonly reservations: SlurmReservations;
  readonly #commands: SlurmCommands;
  readonly #submissions: SlurmSubmissions;
  readonly #allocations: SlurmAllocations;
  /** What runs in allocations. Its ids have 12 digits and more, Slurm's have 10 at most. */
  readonly #steps: Bss;
  readonly #listeners = new Set<(id: string) => void>();
  /** One listing runs; those who come meanwhile share the next, which knows what was submitted before. */
  #listing: Promise<Queue> | undefined;
  #next: Promise<Queue> | undefined;
  /** Jobs handed over here that have not ended; and, until the first listing, those of agents before us. */
  readonly #listed = new Set<string>();
  readonly #recorded = new Set<string>();
  #timer: NodeJS.Timeout | undefined;

  constructor({ host, stateDir, properties }: SlurmContext) {
    this.#commands = slurmCommands(host, properties);
    this.reservations = new SlurmReservations(this.#commands);
    this.#steps = new NoBatch(host, join(stateDir, 'slurm'));
    const context = {
      host,
      commands: this.#commands,
      records: new JobRecords(join(stateDir, 'slurm', 'batch')),
      defaults: {
        jobName: properties.get('tsi.default_job_name') ?? 'UnicoreJob',
        nodesFilter: properties.get('tsi.nodes_filter'),
      },
    };
    for (const { id } of context.records.load(Date.now())) {
      const bssId = context.records.bssId(id);
      if (bssId !== undefined) this.#recorded.add(bssId);
    }
    this.#submissions = new SlurmSubmissions(context);
    this.#allocations = new SlurmAllocations(context, this.#submissions, this.#steps);
  }

  async submit(owner: Owner, job: JobRequest): Promise<string> {
    const { allocationId } = job;
    if (allocationId !== undefined && /^\d{1,10}$/.test(allocationId))
      return this.#allocations.runIn(allocationId, owner, job);
    const id = await this.#submissions.submit(owner, job);
    this.#listed.add(id);
    this.#listen();
    return id;
  }

  allocate(owner: Owner, job: JobRequest): Promise<void> {
    return this.#allocations.allocate(owner, job);
  }

  async status(): Promise<Iterable<readonly [string, BssEntry]>> {
    return [...(await this.#queue()), ...(await this.#steps.status())];
  }

  #queue(): Promise<Queue> {
    if (!this.#listing) return this.#list();
    const list = (): Promise<Queue> => {
      this.#next = undefined;
      return this.#list();
    };
    this.#next ??= this.#listing.then(list, list);
    return this.#next;
  }

  #list(): Promise<Queue> {
    const known = [...this.#listed];
    const listing = this.#commands.read(self(), 'qstat').then(parseQueue);
    this.#listing = listing;
    const done = (): void => {
      this.#listing = undefined;
    };
    listing.then(done, done);
    return listing.then((queue) => {
      for (const id of known) if (!queue.has(id)) this.#ended(id);
      for (const id of this.#recorded) if (queue.has(id)) this.#listed.add(id);
      this.#recorded.clear();
      this.#listen();
      return queue;
    });
  }

  async abort(owner: Owner, id: string): Promise<void> {
    if (isStep(id)) return this.#steps.abort(owner, id);
    const line = this.#commands.line('abort', [checkId(id)], cLocale);
    const outcome = await this.#commands.run(owner, line);
    const said = words(outcome);
    if (outcome.status !== 0 && !hasEnded(said)) throw new TsiError('TSI_FAILED', said);
  }

  /** What runs is suspended, where Slurm lets its owner do that; what waits does not start. */
  async hold(owner: Owner, id: string): Promise<void> {
    if (isStep(id)) return this.#steps.hold(owner, id);
    if ((await this.#stateOf(id)) === 'RUNNING') await this.#change(owner, 'suspend', id);
    await this.#commands.read(owner, 'hold', id);
  }

  async resume(owner: Owner, id: string): Promise<void> {
    if (isStep(id)) return this.#steps.resume(owner, id);
    if ((await this.#stateOf(id)) === 'SUSPENDED') await this.#change(owner, 'continue', id);
    await this.#commands.read(owner, 'resume', id);
  }

  /** Of an array only the members that run. */
  async #change(owner: Owner, name: 'suspend' | 'continue', id: string): Promise<void> {
    const outcome = await this.#commands.run(owner, this.#commands.line(name, [id], cLocale));
    if (outcome.status !== 0 && !concernsWaiting(outcome.stderr))
      throw new TsiError('TSI_FAILED', words(outcome));
  }

  async #stateOf(id: string): Promise<BssEntry['state']> {
    const entry = (await this.#queue()).get(checkId(id));
    if (entry) return entry.state;
    throw new TsiError('TSI_FAILED', `there is no job ${id}, or it has ended`);
  }

  async details(owner: Owner, id: string): Promise<string> {
    if (isStep(id)) return this.#steps.details(owner, id);
    const text = await this.#commands.read(owner, 'details', checkId(id));
    return JSON.stringify(parseDetails(text));
  }

  async partitions(owner: Owner): Promise<Readonly<Record<string, Partition>>> {
    return parsePartitions(await this.#commands.read(owner, 'get_partitions'));
  }

  /** Nothing where Slurm keeps no accounts. */
  async budget(owner: Owner): Promise<readonly Budget[]> {
    const line = this.#commands.line('get_budget', [], cLocale);
    const { status, stdout } = await this.#commands.run(owner, line);
    return status === 0 ? parseBudget(stdout, owner.login) : [];
  }

  onExit(listener: (id: string) => void): () => void {
    this.#listeners.add(listener);
    const endSteps = this.#steps.onExit?.(listener);
    this.#listen();
    return () => {
      this.#listeners.delete(listener);
      endSteps?.();
    };
  }

  #ended(id: string): void {
    if (!this.#listed.delete(id)) return;
    for (const listener of this.#listeners) listener(id);
  }

  #listen(): void {
    const jobs = this.#listed.size + this.#recorded.size;
    if (this.#timer || this.#listeners.size === 0 || jobs === 0) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      // a failure says nothing of any job
      void this.#queue().then(
        () => undefined,
        () => this.#listen(),
      );
    }, listenMs).unref();
  }
}

/** The queue of all is for the agent alone to see. */
function self(): Owner {
  const { username, uid, gid, homedir } = userInfo();
  return { login: username, uid, gid, groups: [gid], home: homedir };
}

function isStep(id: string): boolean {
  return /^\d{12,}$/.test(id);
}

/** An id goes on a command line, where anything else could be an option. */
function checkId(id: string): string {
  if (/^\d{1,10}(_\d{1,10})?$/.test(id)) return id;
  throw new TsiError('TSI_FAILED', `${id} is not the id of a Slurm job`);
}
