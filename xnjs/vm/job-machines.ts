import { randomUUID } from 'node:crypto';
import { canonicalResource } from '#imagerepo/contract.js';
import type { Clock } from '#kernel/clock.js';
import { asGridError, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { RawDescription } from '../job/description.js';
import type { JobEngine } from '../job/engine.js';
import type { Job } from '../job/job.js';
import type { JobSubmission } from '../job/job-submission.js';
import type { NewJob } from '../job/new-job.js';
import { nameOf, satisfies } from './choose-image.js';
import { chooseImageParameters } from './image-parameters.js';
import {
  readFlavour,
  readHostLabels,
  readImageWish,
  readJobImageParameters,
  readJobVolumes,
  type ImageWish,
} from './image-wish.js';
import { readMachineSize, type MachineSize } from './machine-size.js';
import type { Estimate } from './placement/planner.js';
import type { Requester } from './placement/requester.js';
import type { TargetSystem } from './target-system.js';
import type { NewTargetSystem } from './target-systems-options.js';
import type { TargetSystems } from './target-systems.js';

export type JobMachinesOptions = {
  readonly systems: Pick<TargetSystems, 'create' | 'destroy' | 'list' | 'planner' | 'places'>;
  readonly jobs: Pick<JobEngine, 'submit' | 'get' | 'onChange'>;
  readonly submission?: Pick<JobSubmission, 'check'>;
  readonly clock: Clock;
  readonly log: Log;
};

/** What else decides about a job's machine. */
export type MachineWish = {
  /** Where the client has sent the job: used if it is made from such an image. */
  readonly sentTo?: TargetSystem | undefined;
  /** For whom it is made. */
  readonly requester?: Requester;
};

/** A database that is away: nobody waits for the end, but the machine takes room. */
const retryMs = 1_000;

/**
 * Machines of jobs that name an image: each such job has one of its own, which is there as long as the
 * job is and ends with it (ADR 024). A machine is stored with its job's id before the job is; one whose
 * job never came to be, or is gone, is removed, now or at the next start.
 */
export class JobMachines implements AsyncDisposable {
  readonly #options: JobMachinesOptions;
  readonly #log: Log;
  readonly #closing = new AbortController();
  readonly #ending = new Map<string, Promise<void>>();
  #ignore: () => void = () => undefined;

  constructor(options: JobMachinesOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm' });
  }

  /** After the target systems and the jobs are there, before new jobs come. */
  async start(): Promise<void> {
    const { systems, jobs } = this.#options;
    this.#ignore = jobs.onChange((job) => {
      if (job.state === 'DESTROYING' || job.state === 'DESTROYED') this.#endMachinesOf(job.id);
    });
    for (const { jobId, state } of systems.list())
      if (jobId !== undefined && state !== 'DESTROYING' && !(await this.#exists(jobId)))
        this.#endMachinesOf(jobId);
  }

  /**
   * Chooses the image, makes a machine of it and submits the job there. Nothing is left where any of it
   * fails.
   * @throws `IMAGE_UNKNOWN`; `BAD_REQUEST` naming the field; what `TargetSystems.create` and
   * `JobEngine.submit` do
   */
  async submit(wish: Omit<NewJob, 'targetId'>, where: MachineWish = {}): Promise<Job> {
    const { systems, jobs, submission } = this.#options;
    submission?.check();
    const there = this.#thatIsThere(wish, where);
    if (there) {
      const remarks = [`Image: the target system is made from ${nameOf(there.image)}`];
      return await jobs.submit({ ...wish, targetId: there.id, remarks });
    }
    const id = randomUUID();
    const made = await systems.create(newMachine(wish, where, id));
    const { cpus, memoryMiB } = made.parameters;
    const machine = `${made.id} with ${cpus} CPUs and ${memoryMiB} MiB`;
    const remarks = [`Image: ${made.choice ?? ''}`, `Machine: ${machine}, for this job alone`];
    try {
      return await jobs.submit({ ...wish, id, targetId: made.id, remarks });
    } catch (error) {
      this.#endMachinesOf(id);
      throw error;
    }
  }

  /**
   * What {@link submit} would make, without making it.
   * @throws as it does; `CONFLICT` where nothing would be made: the job would run in a machine that is there
   */
  async estimate(wish: Omit<NewJob, 'targetId'>, where: MachineWish = {}): Promise<Estimate> {
    const { systems, submission } = this.#options;
    submission?.check();
    const there = this.#thatIsThere(wish, where);
    if (!there) return await systems.planner.estimate(newMachine(wish, where, randomUUID()));
    const text = `no machine is needed: target system ${there.id} is made from ${nameOf(there.image)}`;
    throw new GridError('CONFLICT', text, { vmId: there.id });
  }

  #thatIsThere(
    { description }: Pick<NewJob, 'description'>,
    { sentTo }: MachineWish,
  ): TargetSystem | undefined {
    if (!sentTo || !satisfies(sentTo.image, imageWishOf(description))) return undefined;
    if (readJobVolumes(description) || !hasParameters(sentTo, description)) return undefined;
    const { labels = [] } = readHostLabels(description) ?? {};
    return this.#options.systems.places.hasLabels(sentTo, labels) ? sentTo : undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ignore();
    this.#closing.abort();
    await Promise.allSettled(this.#ending.values());
  }

  async #exists(jobId: string): Promise<boolean> {
    try {
      await this.#options.jobs.get(jobId);
      return true;
    } catch (error) {
      if (asGridError(error)?.code === 'JOB_UNKNOWN') return false;
      throw error;
    }
  }

  #endMachinesOf(jobId: string): void {
    if (this.#ending.has(jobId)) return;
    const ending = this.#end(jobId).finally(() => this.#ending.delete(jobId));
    this.#ending.set(jobId, ending);
  }

  async #end(jobId: string): Promise<void> {
    const { systems, clock } = this.#options;
    const mine = systems
      .list()
      .filter((system) => system.jobId === jobId && system.state !== 'DESTROYING');
    for (const { id } of mine)
      while (!this.#closing.signal.aborted)
        try {
          await systems.destroy(id, 'its job is gone');
          break;
        } catch (error) {
          if (asGridError(error)?.code === 'NOT_FOUND') break;
          this.#log.error({ vmId: id, jobId, err: error }, "a job's machine could not be ended");
          await clock.sleep(retryMs, this.#closing.signal).catch(() => undefined);
        }
  }
}

function newMachine(
  { ownerDn, description }: Omit<NewJob, 'targetId'>,
  { requester }: MachineWish,
  jobId: string,
): NewTargetSystem {
  const flavour = readFlavour(description);
  const hostLabels = readHostLabels(description);
  const imageParameters = readJobImageParameters(description);
  const volumes = readJobVolumes(description);
  return {
    ...{ ownerDn, jobId, tags: [], atLeast: true },
    image: imageWishOf(description),
    parameters: sizeOf(description),
    ...(requester && { requester }),
    ...(flavour !== undefined && { flavour }),
    ...(hostLabels && { hostLabels }),
    ...(imageParameters && { imageParameters }),
    ...(volumes && { volumes }),
  };
}

/** Whether a machine has the values that the job asks for. @throws `BAD_REQUEST` its image takes no such */
function hasParameters(
  { image: { metadata }, imageParameters = {} }: TargetSystem,
  description: RawDescription,
): boolean {
  const wish = readJobImageParameters(description);
  if (!wish) return true;
  // of those that it does not name it takes any
  const values = { ...imageParameters, ...wish.values };
  const wanted = chooseImageParameters(metadata, { ...wish, values }) ?? {};
  return Object.entries(wanted).every(([name, value]) => imageParameters[name] === value);
}

function imageWishOf(description: RawDescription): ImageWish {
  return completed(readImageWish(description) ?? { requirements: {} }, description);
}

/** The image has to have the job's application, where nothing else is said. */
function completed(
  wish: ImageWish,
  { ApplicationName, ApplicationVersion }: RawDescription,
): ImageWish {
  if (wish.reference !== undefined || wish.requirements.application !== undefined) return wish;
  if (typeof ApplicationName !== 'string' || ApplicationName === '') return wish;
  const version = typeof ApplicationVersion === 'string' ? ApplicationVersion : '';
  const application = {
    application: ApplicationName,
    ...(version !== '' && { applicationVersion: version }),
  };
  return { requirements: { ...wish.requirements, ...application } };
}

/** By proper names, as the job's resources are read later; these must say the same. */
function sizeOf({ Resources }: RawDescription): MachineSize {
  if (typeof Resources !== 'object' || Resources === null || Array.isArray(Resources)) return {};
  const resources = Object.entries(Resources).filter(
    ([name]) =>
      name === canonicalResource(name) || !Object.hasOwn(Resources, canonicalResource(name)),
  );
  return readMachineSize('Resources', Object.fromEntries(resources), 'ignore');
}
