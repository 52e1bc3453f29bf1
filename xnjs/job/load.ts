import { JobError } from './errors.js';
import type { Job } from './job.js';

const retryAfterSeconds = 30;

/** How many jobs are not over, of each user and in all; refuses more than there may be. */
export class Load {
  readonly #limits: { readonly maxUnfinished: number; readonly maxUnfinishedPerUser: number };
  readonly #perUser = new Map<string, number>();
  #total = 0;

  constructor(limits: { readonly maxUnfinished: number; readonly maxUnfinishedPerUser: number }) {
    this.#limits = limits;
  }

  /**
   * Takes room for new jobs, which is given back by `release` or as they end.
   * @throws {@link JobError} `JOB_LIMIT` the user has too many, `SITE_UNAVAILABLE` all have
   */
  reserve(dn: string, jobs: number): void {
    const { maxUnfinished, maxUnfinishedPerUser } = this.#limits;
    const mine = this.#perUser.get(dn) ?? 0;
    if (mine + jobs > maxUnfinishedPerUser)
      throw new JobError(
        'JOB_LIMIT',
        `you have ${mine} unfinished jobs, and may have at most ${maxUnfinishedPerUser}`,
        { dn, retryAfterSeconds },
      );
    if (this.#total + jobs > maxUnfinished)
      throw new JobError(
        'SITE_UNAVAILABLE',
        'the site has too many unfinished jobs, try again later',
        {
          unfinished: this.#total,
          retryAfterSeconds,
        },
      );
    this.#add(dn, jobs);
  }

  release(dn: string, jobs: number): void {
    this.#add(dn, -jobs);
  }

  /** Without `before`: a job that was found at start, or the child of a sweep. */
  changed(before: Job | undefined, after: Job): void {
    this.#add(
      after.ownerDn,
      Number(!isOver(after)) - Number(before !== undefined && !isOver(before)),
    );
  }

  #add(dn: string, jobs: number): void {
    if (jobs === 0) return;
    this.#total = Math.max(0, this.#total + jobs);
    const mine = Math.max(0, (this.#perUser.get(dn) ?? 0) + jobs);
    if (mine === 0) this.#perUser.delete(dn);
    else this.#perUser.set(dn, mine);
  }
}

/** Nothing is done for it any more, but for its removal. */
export function isOver({ state }: Job): boolean {
  return state === 'DONE' || state === 'DESTROYING' || state === 'DESTROYED';
}
