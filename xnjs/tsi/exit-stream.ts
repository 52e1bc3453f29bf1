import type { ClientHttp2Stream } from 'node:http2';
import type { Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { destroySoon } from '#kernel/net/destroy-soon.js';
import type { LinkConnection } from './link-connection.js';

/** Without the stream ends are seen by listings: nothing is lost, and an agent that ends each at once is not stormed. */
const againMs = 1_000;
const maxLineBytes = 512;

/** What the agent tells of jobs that end (`GET /exits`), for as long as somebody listens. */
export class ExitStream {
  readonly listeners = new Set<(bssId: string) => void>();
  readonly #clock: Clock;
  readonly #log: Log;
  /** Connections that are followed, or whose agent cannot be. */
  readonly #followed = new WeakSet<LinkConnection>();

  constructor(clock: Clock, log: Log) {
    this.#clock = clock;
    this.#log = log;
  }

  follow(connection: LinkConnection): void {
    if (this.listeners.size === 0 || this.#followed.has(connection)) return;
    this.#followed.add(connection);
    void this.#follow(connection);
  }

  async #follow(connection: LinkConnection): Promise<void> {
    const ended = new AbortController();
    void connection.ended.then(() => ended.abort());
    while (!connection.isOver) {
      if ((await this.#listen(connection)) === 'unknown') return;
      await this.#clock.sleep(againMs, ended.signal).catch(() => undefined);
    }
  }

  /** @returns when the stream has ended */
  async #listen(connection: LinkConnection): Promise<'unknown' | 'ended'> {
    let stream: ClientHttp2Stream | undefined;
    let status: number | undefined;
    try {
      stream = connection.request({ ':path': '/exits' }, { endStream: true });
      stream.on('error', () => undefined); // seen by reading
      stream.once('response', (headers) => (status = headers[':status']));
      for await (const id of lines(stream)) {
        if (status !== 200) break;
        for (const listener of this.listeners) listener(id);
      }
    } catch (error) {
      this.#log.debug({ reason: errorText(error) }, 'the ends of jobs are not told any more');
    } finally {
      if (stream) destroySoon(stream);
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
