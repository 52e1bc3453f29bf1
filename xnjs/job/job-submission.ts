import { z } from 'zod';
import type { SettingsStore } from '../persistence/settings-store.js';
import { JobError } from './errors.js';

const State = z.object({ enabled: z.boolean(), message: z.string() });
export type SubmissionState = z.output<typeof State>;

const setting = 'jobSubmission';
const noReason = 'Job submission is disabled.';

/** Whether new jobs are taken: an administrator's switch, which a restart leaves as it is. */
export class JobSubmission {
  readonly #store: SettingsStore;
  #state: SubmissionState;

  private constructor(store: SettingsStore, state: SubmissionState) {
    this.#store = store;
    this.#state = state;
  }

  static async open(store: SettingsStore): Promise<JobSubmission> {
    const stored = State.safeParse(await store.get(setting));
    return new JobSubmission(store, stored.data ?? { enabled: true, message: '' });
  }

  get state(): SubmissionState {
    return this.#state;
  }

  /** @param message what users are told whose jobs are refused */
  async set(state: SubmissionState): Promise<void> {
    await this.#store.set(setting, state);
    this.#state = state;
  }

  /** @throws {@link JobError} `SITE_UNAVAILABLE` with the administrator's message */
  check(): void {
    const { enabled, message } = this.#state;
    if (!enabled) throw new JobError('SITE_UNAVAILABLE', message === '' ? noReason : message);
  }
}
