import type { IncomingMessage } from 'node:http';
import { until } from '../xnjs/job/rig.js';

export type Event = { id?: string; event?: string; data?: Record<string, unknown> };

/** One client of a stream of events. Comments are counted, events kept. */
export class EventClient {
  readonly events: Event[] = [];
  heartbeats = 0;
  ended = false;
  lastId = '';
  retry = '';
  readonly response: IncomingMessage;

  constructor(response: IncomingMessage) {
    this.response = response;
    let text = '';
    response.setEncoding('utf8').on('error', () => undefined);
    response.on('close', () => (this.ended = true));
    response.on('data', (chunk: string) => {
      text += chunk;
      for (let at = text.indexOf('\n\n'); at >= 0; at = text.indexOf('\n\n')) {
        this.#take(text.slice(0, at));
        text = text.slice(at + 2);
      }
    });
  }

  #take(block: string): void {
    const fields = new Map(
      block.split('\n').map((line) => line.split(/: ?(.*)/s) as [string, string]),
    );
    if (fields.has('')) this.heartbeats++;
    this.retry = fields.get('retry') ?? this.retry;
    const id = fields.get('id');
    this.lastId = id ?? this.lastId;
    const data = fields.get('data');
    if (data === undefined) return;
    const event = fields.get('event');
    this.events.push({
      ...(id && { id }),
      ...(event && { event }),
      data: JSON.parse(data) as never,
    });
  }

  of(subject: string): unknown[] {
    return this.events
      .filter(({ data }) => data?.['id'] === subject)
      .map(({ data }) => data?.['status'] ?? data?.['change']);
  }
  async has(subject: string, last: string): Promise<void> {
    await until(`${subject} ${last}`, () => this.of(subject).at(-1) === last);
  }
  leave(): void {
    this.response.destroy();
  }
}
