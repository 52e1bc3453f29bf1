import { errorText, type GridError } from '#kernel/errors.js';
import type { FileSpace } from '../files/file-space.js';
import type { Target } from '../target.js';
import { Background } from './background.js';
import { JobChanges } from './changes.js';
import { Children } from './children.js';
import { destroyChildren, loseJobs, type EndsOptions } from './ends.js';
import type { JobEngineOptions } from './engine-options.js';
import type { Job } from './job.js';
import { Lanes } from './lanes.js';
import { note } from './learn.js';
import { listedNews } from './listed.js';
import { isOver, Load } from './load.js';
import { Notifier } from './notifier.js';
import { Performances } from './performances.js';
import { ProgressReader } from './progress.js';
import type { Effect } from './transitions.js';
import { withProgress } from './views.js';
import { Watcher } from './watcher.js';
import { JobWork, TargetLost } from './work.js';

/**
 * What the engine consists of, and how that hangs together: a step that has been stored is followed by what
 * it asks for, and what comes of this is the job's next step.
 */
export class JobParts implements AsyncDisposable {
  readonly changes: JobChanges;
  readonly background: Background;
  readonly load: Load;
  readonly notifier: Notifier;
  readonly performances: Performances;
  /** For what ends many jobs at once. */
  readonly ends: EndsOptions;
  readonly #targets: JobEngineOptions['targets'];
  readonly #lanes: readonly Lanes[];
  readonly #watcher: Watcher;
  readonly #progress: ProgressReader;
  readonly #children: Children;
  readonly #work: JobWork;
  /** Why targets are gone that are still known. */
  readonly #lost = new Map<string, string>();

  constructor(options: JobEngineOptions & { readonly closing: AbortSignal }) {
    const { store, targets, staging, clock, log, config, closing } = options;
    const common = { clock, log };
    const follow = this.#follow.bind(this);
    const changes = new JobChanges({ ...{ store, closing, follow }, ...common });
    this.changes = changes;
    this.background = new Background(log);
    this.load = new Load(config);
    this.notifier = createNotifier(options, changes);
    this.ends = {
      ...options,
      tell: (id, event) => changes.tell(id, event),
      amend: (id, change) => changes.amend(id, change),
    };
    this.#targets = targets;
    const [lanes, stagingLanes] = createLanes(options);
    this.#lanes = [lanes, stagingLanes];
    this.#children = new Children({
      ...{ store, clock, sweepLimit: config.sweepLimit },
      adopt: (child) => this.begin(child),
      order: async (id, type) => await changes.tell(id, { type, atMs: clock.now() }),
    });
    this.#watcher = new Watcher({
      ...{ targets, ...common },
      intervalMs: config.statusIntervalMs,
      maxIntervalMs: config.statusMaxIntervalMs,
      onEntry: async (jobId, run, entry) => {
        const news = listedNews(entry);
        if (news)
          await this.background.run(changes.tell(jobId, { ...news, run, atMs: clock.now() }));
      },
    });
    this.#progress = new ProgressReader({
      ...{ targets, ...common, intervalMs: config.progressIntervalMs },
      onProgress: async (id, run, progress) => {
        await changes.amend(id, (job) => withProgress(job, run, progress));
      },
    });
    const shared = { watcher: this.#watcher, closing };
    this.#work = new JobWork({
      ...{ ...shared, ...common, staging, config, lanes, stagingLanes, children: this.#children },
      target: (id) => this.target(id),
      remark: async ({ id }, text) => {
        await changes.amend(id, (job) => note(job, clock.now(), text));
      },
      settle: (job, node) => changes.settle(job, node),
    });
    const { tell } = this.ends;
    this.performances = new Performances({
      ...{ ...shared, work: this.#work, progress: this.#progress, tell },
    });
  }

  /** A job has just been stored for the first time. */
  begin(job: Job): void {
    this.load.changed(undefined, job);
    this.changes.announce(job);
    this.performances.advance(job);
  }

  /** @throws {@link TargetLost} */
  target(id: string): Target {
    const reason = this.#lost.get(id);
    const target = this.#targets.find(id);
    if (reason === undefined && target) return target;
    throw new TargetLost(id, reason ?? 'it no longer exists');
  }

  /** The job's directory. @throws {@link TargetLost} */
  files(job: Job): FileSpace {
    return this.#work.files(job, this.target(job.targetId));
  }

  /** Calls to target systems, staging's too. */
  get calls(): { readonly active: number; readonly waiting: number } {
    const sum = (of: 'active' | 'waiting'): number =>
      this.#lanes.reduce((all, { load }) => all + load[of], 0);
    return { active: sum('active'), waiting: sum('waiting') };
  }

  targetReady(id: string): void {
    this.#lost.delete(id);
    for (const lanes of this.#lanes) lanes.resume(id);
  }

  /** It is to have another machine. */
  targetReplaced(id: string): void {
    this.#lost.delete(id);
  }

  targetLost(id: string, reason: string): void {
    this.#lost.set(id, reason);
  }

  /** Tells the jobs of a target system that it is lost; without one, those of all lost ones. */
  loseJobs(ofTarget?: string): void {
    for (const [id, reason] of this.#lost)
      if (ofTarget === undefined || ofTarget === id)
        void this.background.run(loseJobs(this.ends, { targetId: id, reason }));
  }

  /** After `closing` has been aborted. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const lanes of this.#lanes) lanes[Symbol.dispose]();
    this.#watcher[Symbol.dispose]();
    this.#progress[Symbol.dispose]();
    await this.performances.settled();
    await this.background.settled();
    await this.notifier[Symbol.asyncDispose]();
  }

  #follow(before: Job, after: Job, entered: readonly Effect[]): void {
    if (entered.some((effect) => effect.do === 'submit' || effect.do === 'launch'))
      this.#work.attemptStored(after);
    this.load.changed(before, after);
    if (isOver(after)) this.#children.changed(after);
    if (after.state === 'DESTROYED' && after.plan?.sweep !== undefined)
      void this.background.run(destroyChildren(this.ends, after));
    this.notifier.take(after);
    this.performances.advance(after);
  }
}

function createNotifier(
  { notices, clock, log, config }: JobEngineOptions,
  changes: JobChanges,
): Notifier {
  return new Notifier({
    ...{ sender: notices, clock, log, config: config.notifications },
    done: async (id, noticeId, text) =>
      await changes.amend(id, (job) => {
        const left = (job.notices ?? []).filter((notice) => notice.id !== noticeId);
        return note({ ...job, notices: left }, clock.now(), text);
      }),
  });
}

/** For short calls, and for transfers. */
function createLanes({
  clock,
  log,
  config,
}: Pick<JobEngineOptions, 'clock' | 'log' | 'config'>): [Lanes, Lanes] {
  const onTrouble = (vmId: string, error: GridError): void =>
    log.warn({ vmId, err: errorText(error) }, 'target system does not answer, its jobs wait');
  const { stagingsPerTarget: callsPerTarget, stagingsTotal: callsTotal } = config;
  return [
    new Lanes({ clock, ...config, onTrouble }),
    new Lanes({ clock, ...config, callsPerTarget, callsTotal }),
  ];
}
