import type { ClientHttp2Stream } from 'node:http2';
import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { destroySoon } from '#kernel/net/destroy-soon.js';
import type { LinkConnection } from './link-connection.js';

/** Without the stream ends are seen by listings: nothing is lost, and an agent that ends each at once is not stormed. */
const againMs = 1_000;
const maxLineBytes = 512;

/** What the agent tells of jobs that end (`GET /exits`), for as long as somebody listens: a link rests without it. */
export class ExitStream {
  readonly #listeners = new Set<(bssId: string) => void>();
  readonly #clock: Clock;
  readonly #log: Log;
  /** Connections whose agent does not know the question. */
  readonly #unknown = new WeakSet<LinkConnection>();
  /** The connection that is followed. */
  #followed: { readonly connection: LinkConnection; readonly over: AbortController } | undefined;

  constructor(clock: Clock, log: Log) {
    this.#clock = clock;
    this.#log = log;
  }

  /** Nothing is told before a connection is followed. @returns a function that ends it */
  add(listener: (bssId: string) => void): () => void {
    this.#listeners.add(listener);
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size === 0) this.#leave();
    };
  }

  /** Tells nobody any more. */
  clear(): void {
    this.#listeners.clear();
    this.#leave();
  }

  /** Instead of the one before, which has ended. */
  follow(connection: LinkConnection): void {
    if (this.#listeners.size === 0 || this.#unknown.has(connection)) return;
    if (this.#followed?.connection === connection) return;
    this.#leave();
    const over = new AbortController();
    this.#followed = { connection, over };
    void connection.ended.then(() => over.abort());
    void this.#follow(connection, over.signal);
  }

  #leave(): void {
    this.#followed?.over.abort();
    this.#followed = undefined;
  }

  async #follow(connection: LinkConnection, over: AbortSignal): Promise<void> {
    while (!over.aborted) {
      if ((await this.#listen(connection, over)) === 'unknown') {
        this.#unknown.add(connection);
        return;
      }
      await this.#clock.sleep(againMs, over).catch(() => undefined);
    }
  }

  /** @returns when the stream has ended */
  async #listen(connection: LinkConnection, over: AbortSignal): Promise<'unknown' | 'ended'> {
    let stream: ClientHttp2Stream | undefined;
    let status: number | undefined;
    const end = (): void => {
      if (stream) destroySoon(stream);
    };
    try {
      stream = connection.request({ ':path': '/exits' }, { endStream: true });
      over.addEventListener('abort', end, { once: true });
      stream.on('error', () => undefined); // seen by reading
      stream.once('response', (headers) => (status = headers[':status']));
      for await (const id of lines(stream)) {
        if (status !== 200 || over.aborted) break;
        for (const listener of this.#listeners) listener(id);
      }
    } catch (error) {
      this.#log.debug({ reason: errorText(error) }, 'the ends of jobs are not told any more');
    } finally {
      over.removeEventListener('abort', end);
      end();
    }
    return status === 404 ? 'unknown' : 'ended';
  }
}

/** @throws Error where a line is longer than any id */
async function* lines(stream: ClientHttp2Stream): AsyncGenerator<string, void> {
  let rest = '';
  const chunks = stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>;
  for await (const chunk of chunks) {
    const parts = (rest + chunk.toString('latin1')).split('\n');
    rest = parts.pop() ?? '';
    for (const part of parts) {
      if (part.length > maxLineBytes) throw new Error('an id is too long');
      if (/^\S+$/.test(part)) yield part;
    }
    if (rest.length > maxLineBytes) throw new Error('an id is too long');
  }
}
