import { Readable } from 'node:stream';
import { z } from 'zod';
import { GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { ChangeFeed } from '#kernel/persistence/change-feed.js';
import { renderChange, sseEvent, type Viewer } from './events-rendering.js';
import { watchPermission, type Permission } from './permission.js';

/** Bounds on streams of events. */
export const EventsConfig = z.strictObject({
  /** Open at once, of each user and of all. */
  perUser: z.int().min(0).default(8),
  total: z.int().min(0).default(1_000),
  /** A silent stream proves so often that it lives. */
  heartbeatSeconds: z.number().positive().max(60).default(15),
  /** A client that takes nothing for so long, although there is something, is dropped. */
  slowSeconds: z.number().positive().default(30),
  /** Then the client has to prove anew who it is. */
  maxSeconds: z.number().positive().max(86_400).default(3_600),
  /** How often it is asked who the client is by now, and whether it may listen. */
  recheckSeconds: z.number().positive().max(3_600).default(15),
  /** When a client is to come again after a stream has ended. */
  retrySeconds: z.number().positive().default(2),
});
export type EventsConfig = z.output<typeof EventsConfig>;

type Feed = Pick<ChangeFeed, 'after' | 'newest' | 'onMore'>;
type StreamOptions = {
  readonly feed: Feed;
  readonly config: EventsConfig;
  readonly viewer: Viewer;
  /** Absent: whoever it was may listen on. */
  readonly permission?: Permission | undefined;
  readonly log: Log;
};

const batch = 100;
/** What a client that is dropped gets to take what is under way already. */
const lingerMs = 5_000;

/** The streams of this server. */
export class EventStreams implements Disposable {
  readonly #feed: Feed;
  readonly #config: EventsConfig;
  readonly #open = new Set<EventStream>();
  #closed = false;

  constructor(feed: Feed, config: EventsConfig) {
    this.#feed = feed;
    this.#config = config;
  }

  get size(): number {
    return this.#open.size;
  }

  /**
   * @param since the last event that the client has; absent: it wants what is new
   * @throws `LIMIT_REACHED`; `SITE_UNAVAILABLE` the server closes
   */
  async open(
    viewer: Viewer,
    since: number | undefined,
    { log, permission }: Pick<StreamOptions, 'log' | 'permission'>,
  ): Promise<Readable> {
    const from = since ?? (await this.#feed.newest());
    if (this.#closed) throw new GridError('SITE_UNAVAILABLE', 'the server closes');
    const { perUser, total } = this.#config;
    const mine = [...this.#open].filter(({ dn }) => dn === viewer.caller.dn).length;
    if (mine >= perUser || this.#open.size >= total) {
      const text = mine >= perUser ? `${perUser} of each user` : `${total} at this server`;
      const details = { retryAfterSeconds: 30 };
      throw new GridError('LIMIT_REACHED', `too many streams of events: ${text}`, details);
    }
    const options = { feed: this.#feed, config: this.#config, viewer, permission, log };
    const stream = new EventStream(options, from);
    this.#open.add(stream);
    stream.once('close', () => this.#open.delete(stream));
    stream.once('finished', () => this.#open.delete(stream));
    return stream;
  }

  /** Tells all clients to come again later. */
  [Symbol.dispose](): void {
    this.#closed = true;
    for (const stream of this.#open) stream.finish('closing');
  }
}

/**
 * Server-sent events of one client. It takes from the feed what its client takes from it: what waits is in
 * the feed, and here no more than a batch.
 */
class EventStream extends Readable {
  readonly #options: StreamOptions;
  readonly #ignore: () => void;
  readonly #timers: NodeJS.Timeout[];
  readonly #unwatch: () => void;
  /** As he was the last time that it was asked. */
  #viewer: Viewer;
  #position: number;
  #taking = false;
  #again = false;
  #ended = false;
  /** Since when the client takes nothing. */
  #blockedMs: number | undefined;

  constructor(options: StreamOptions, position: number) {
    super({ highWaterMark: 16_384 });
    const { config, feed, permission } = options;
    this.#options = options;
    this.#viewer = options.viewer;
    this.#position = position;
    this.#ignore = feed.onMore(() => this.#take());
    const tickMs = Math.min(config.heartbeatSeconds, config.slowSeconds) * 1_000;
    this.#timers = [
      setInterval(() => this.#tick(), tickMs),
      setTimeout(() => this.finish('renew'), config.maxSeconds * 1_000),
    ];
    this.#unwatch = permission
      ? watchPermission({
          ...{ permission, everySeconds: config.recheckSeconds },
          onRenewed: (caller) => (this.#viewer = { ...this.#viewer, caller }),
          onLost: () => this.finish('forbidden'),
        })
      : () => undefined;
    this.#send(`retry: ${config.retrySeconds * 1_000}\nid: ${position}\n\n`);
  }

  get dn(): string {
    return this.#options.viewer.caller.dn;
  }

  /** Ends it with a last event that says why. */
  finish(reason: 'closing' | 'renew' | 'slow' | 'forbidden'): void {
    if (this.#ended) return;
    this.push(sseEvent('end', { reason }));
    this.#ended = true;
    this.push(null);
    this.#rest();
    this.emit('finished');
    this.#timers.push(setTimeout(() => this.destroy(), lingerMs).unref());
  }

  override _read(): void {
    this.#blockedMs = undefined;
    this.#take();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#ended = true;
    this.#rest();
    for (const timer of this.#timers) clearTimeout(timer);
    done(error);
  }

  #rest(): void {
    this.#ignore();
    this.#unwatch();
    for (const timer of this.#timers.splice(0)) clearTimeout(timer);
  }

  #send(text: string): void {
    if (!this.#ended && !this.push(text)) this.#blockedMs ??= performance.now();
  }

  #tick(): void {
    const { slowSeconds } = this.#options.config;
    if (this.#blockedMs === undefined)
      // the position too: what others get to see makes it grow old
      this.#send(`: heart-beat\nid: ${this.#position}\n\n`);
    else if (performance.now() - this.#blockedMs >= slowSeconds * 1_000) this.finish('slow');
  }

  #take(): void {
    this.#again = true;
    if (this.#taking) return;
    this.#taking = true;
    this.#takeAll()
      .catch((error: unknown) => {
        this.#options.log.warn({ err: error }, 'a stream of events broke');
        this.destroy();
      })
      .finally(() => (this.#taking = false));
  }

  async #takeAll(): Promise<void> {
    while (this.#again && !this.#ended && this.#blockedMs === undefined) {
      this.#again = false;
      const { feed } = this.#options;
      const viewer = this.#viewer;
      const changes = await feed.after(this.#position, batch);
      if (changes) {
        let text = '';
        for (const change of changes) text += (await renderChange(change, viewer)) ?? '';
        // only now: a heart-beat meanwhile must not say that it is there already
        this.#position = changes.at(-1)?.seq ?? this.#position;
        if (text !== '') this.#send(text);
        if (changes.length > 0) this.#again = true;
      } else {
        this.#position = await feed.newest();
        const reason = 'what came after this id is forgotten: read the lists again';
        this.#send(sseEvent('reset', { types: viewer.types, reason }, this.#position));
        this.#again = true;
      }
    }
  }
}
