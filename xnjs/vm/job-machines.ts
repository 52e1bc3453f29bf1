import { randomUUID } from 'node:crypto';
import { canonicalResource } from '#imagerepo/contract.js';
import type { Clock } from '#kernel/clock.js';
import { asGridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { RawDescription } from '../job/description.js';
import type { JobEngine } from '../job/engine.js';
import type { Job } from '../job/job.js';
import type { JobSubmission } from '../job/job-submission.js';
import type { NewJob } from '../job/new-job.js';
import {
  chooseImage,
  nameOf,
  roomyEnough,
  satisfies,
  unlike,
  type ChosenImage,
} from './choose-image.js';
import type { ImageSearch } from './image-source.js';
import { readImageWish, type ImageWish } from './image-wish.js';
import { readMachineSize, type MachineSize } from './machine-size.js';
import { VmError } from './state.js';
import type { Driver, TargetSystem } from './target-system.js';
import type { TargetSystems } from './target-systems.js';

export type JobMachinesOptions = {
  readonly systems: Pick<TargetSystems, 'create' | 'destroy' | 'list' | 'limits'>;
  readonly jobs: Pick<JobEngine, 'submit' | 'get' | 'onChange'>;
  readonly images: ImageSearch;
  readonly submission?: Pick<JobSubmission, 'check'>;
  /** The drivers that answer at present. */
  readonly drivers: () => readonly Driver[];
  readonly clock: Clock;
  readonly log: Log;
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
   * @param sentTo where the client has sent the job: used if it is made from such an image
   * @throws `IMAGE_UNKNOWN`; `BAD_REQUEST` naming the field; what `TargetSystems.create` and
   * `JobEngine.submit` do
   */
  async submit(wish: Omit<NewJob, 'targetId'>, sentTo?: TargetSystem): Promise<Job> {
    const { systems, jobs, submission } = this.#options;
    submission?.check();
    const { ownerDn, description } = wish;
    const given = readImageWish(description) ?? { requirements: {} };
    const imageWish = completed(given, description);
    if (sentTo && satisfies(sentTo.image, imageWish)) {
      const remarks = [`Image: the target system is made from ${nameOf(sentTo.image)}`];
      return await jobs.submit({ ...wish, targetId: sentTo.id, remarks });
    }
    const size = sizeOf(description);
    const { image, why } = await this.#choose(imageWish, size, ownerDn);
    const id = randomUUID();
    const parameters = roomyEnough(size, image.metadata);
    const create = { ownerDn, image: image.id, parameters, tags: [], jobId: id };
    const { id: targetId, parameters: made } = await systems.create(create);
    const machine = `${made.cpus} CPUs and ${made.memoryMiB} MiB`;
    const remarks = [`Image: ${why}`, `Machine: ${targetId} with ${machine}, for this job alone`];
    try {
      return await jobs.submit({ ...wish, id, targetId, remarks });
    } catch (error) {
      this.#endMachinesOf(id);
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ignore();
    this.#closing.abort();
    await Promise.allSettled(this.#ending.values());
  }

  async #choose(
    { reference, requirements }: ImageWish,
    size: MachineSize,
    callerDn: string,
  ): Promise<ChosenImage> {
    const { images, systems, drivers } = this.#options;
    if (reference !== undefined) {
      const image = await images.find(reference, callerDn);
      const reason = unlike(image.metadata, requirements);
      if (reason === undefined) return { image, why: `${nameOf(image)} was asked for` };
      throw new VmError('IMAGE_UNKNOWN', `Image: ${nameOf(image)} does not fit: ${reason}`);
    }
    return chooseImage(await images.search(requirements, callerDn), {
      requirements,
      size,
      callerDn,
      limits: systems.limits,
      drivers: drivers(),
    });
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
