import { ImageChanges, imageRoutes, longestWaitSeconds } from '#imagerepo/contract.js';
import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { HttpClient } from '#kernel/http/client.js';
import type { Log } from '#kernel/log.js';
import type { ChangeLog, NewChange } from '#kernel/persistence/change-log.js';
import type { Database } from '#kernel/persistence/database.js';

export type ImageFollowerOptions = {
  readonly client: HttpClient;
  /** Proves which server asks. */
  readonly headers: () => Record<string, string>;
  readonly database: Database;
  readonly changes: ChangeLog;
  /** Called after a commit that has logged something. */
  readonly onLogged: () => void;
  readonly clock: Clock;
  readonly log: Log;
};

/** What is told of an image, and to whom beside its owner. */
export type LoggedImage = Pick<
  ImageChanges['changes'][number],
  'change' | 'name' | 'version' | 'isPublic' | 'wasPublic'
>;

const source = 'images';
/** A repository that is restarted is back at once; one that is away for long is not asked all the time. */
const [firstRetryMs, longestRetryMs] = [500, 30_000];

/**
 * Brings what becomes of images into our own log, so that there is one order and one number for all. The
 * repository says where to go on; that is stored with what was taken, so nothing is taken twice or missed.
 */
export class ImageFollower implements AsyncDisposable {
  readonly #options: ImageFollowerOptions;
  readonly #closing = new AbortController();
  readonly #running: Promise<void>;

  constructor(options: ImageFollowerOptions) {
    this.#options = options;
    this.#running = this.#run();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    for (let failures = 0; !signal.aborted;)
      try {
        await this.#take();
        failures = 0;
      } catch (error) {
        await this.#failed(error, failures++);
      }
  }

  async #failed(error: unknown, failures: number): Promise<void> {
    const { clock, log } = this.#options;
    const { signal } = this.#closing;
    if (signal.aborted) return;
    if (failures === 0) log.info({ err: errorText(error) }, 'changes of images are not heard of');
    const waitMs = Math.min(longestRetryMs, firstRetryMs * 2 ** Math.min(failures, 10));
    await clock.sleep(waitMs, signal).catch(() => undefined);
  }

  async #take(): Promise<void> {
    const { client, headers, database, changes, onLogged } = this.#options;
    const known = await database.sql<{ cursor: number }>(
      'SELECT cursor FROM change_sources WHERE source = $1',
      [source],
    );
    const since = known[0] && { since: `${known[0].cursor}`, waitSeconds: `${longestWaitSeconds}` };
    const query = new URLSearchParams(since ?? {});
    const options = { headers: headers(), signal: this.#closing.signal };
    const path = `${imageRoutes.changes}?${query.toString()}`;
    const answer = ImageChanges.parse((await client.json('GET', path, undefined, options)).body);
    const logged = answer.lost ? [lost] : answer.changes.map(toChange);
    if (logged.length === 0 && answer.next === known[0]?.cursor) return;
    const cursor = {
      text:
        'INSERT INTO change_sources (source, cursor) VALUES ($1, $2) ' +
        'ON CONFLICT (source) DO UPDATE SET cursor = excluded.cursor',
      values: [source, answer.next],
    };
    await database.write([...changes.statements(logged), cursor]);
    if (logged.length > 0) onLogged();
  }
}

/** For all: whoever keeps a list of images has to read it again. */
const lost: NewChange = { type: 'lost', subject: source, ownerDn: '', body: { types: ['image'] } };

function toChange({ id, owner, ...told }: ImageChanges['changes'][number]): NewChange {
  const { change, name, version, isPublic, wasPublic } = told;
  const body: LoggedImage = { change, name, version, isPublic, wasPublic };
  return { type: 'image', subject: id, ownerDn: owner, body };
}
