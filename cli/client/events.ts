import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { asGridError, errorText, GridError } from '#kernel/errors.js';
import { tell } from './print.js';
import type { Session } from './profile.js';

const Data = z.looseObject({
  type: z.string().optional(),
  id: z.string().optional(),
  time: z.string().optional(),
  change: z.string().optional(),
  status: z.string().optional(),
  state: z.string().optional(),
  name: z.string().optional(),
  statusMessage: z.string().optional(),
  reason: z.string().optional(),
  evidence: z.object({ fact: z.string() }).optional(),
});
/** `event` is `job`, `site`, `image`, `reset` (read the lists again), or our own `open`. */
export type SiteEvent = {
  readonly id: string;
  readonly event: string;
  readonly data: z.output<typeof Data>;
};
export type EventQuery = { readonly types?: string; readonly since?: string };

const longestBlock = 1_048_576;
const [firstRetryMs, longestRetryMs] = [500, 30_000];

/** Takes apart server-sent events. A block without data moves the position only. */
export class EventParser {
  lastId: string | undefined;
  retryMs: number | undefined;
  #text = '';

  push(chunk: string): SiteEvent[] {
    this.#text += chunk;
    const blocks = this.#text.split(/\r?\n\r?\n/);
    this.#text = blocks.pop() ?? '';
    if (this.#text.length > longestBlock)
      throw new GridError('PEER_FAILED', 'the server sent an event without an end');
    return blocks.flatMap((block) => this.#parse(block));
  }

  #parse(block: string): SiteEvent[] {
    let event = 'message';
    const data: string[] = [];
    for (const line of block.split(/\r?\n/)) {
      const [, field = '', value = ''] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
      if (field === 'id') this.lastId = value;
      else if (field === 'retry' && /^\d+$/.test(value)) this.retryMs = Number(value);
      else if (field === 'event') event = value;
      else if (field === 'data') data.push(value);
    }
    if (data.length === 0) return [];
    const parsed: unknown = JSON.parse(data.join('\n'));
    return [{ id: this.lastId ?? '', event, data: Data.parse(parsed) }];
  }
}

/**
 * What happens, from now on or from after `since`. A stream that ends is taken up where it was; `open` tells
 * that from there on nothing is missed.
 * @throws what the server refuses for good
 */
export async function* followEvents(
  { client, core }: Pick<Session, 'client' | 'core'>,
  { types, since }: EventQuery,
  signal: AbortSignal,
): AsyncGenerator<SiteEvent, void, undefined> {
  const parser = new EventParser();
  parser.lastId = since;
  const query = types === undefined ? '' : `?types=${encodeURIComponent(types)}`;
  for (let failures = 0; !signal.aborted;) {
    try {
      const position = parser.lastId === undefined ? {} : { 'last-event-id': parser.lastId };
      const headers = { accept: 'text/event-stream', ...position };
      const { body } = await client.download(`${core}/events${query}`, { headers, signal });
      body.setEncoding('utf8');
      failures = 0;
      yield { id: parser.lastId ?? '', event: 'open', data: {} };
      for await (const chunk of body as AsyncIterable<string>)
        for (const event of parser.push(chunk)) if (event.event !== 'end') yield event;
    } catch (error) {
      if (isFinal(error)) throw error;
      if (failures++ === 0 && !isAborted(error))
        tell(`the stream of events broke: ${errorText(error)}`);
    }
    const pauseMs = Math.min(longestRetryMs, firstRetryMs * 2 ** failures);
    await sleep(failures === 0 ? (parser.retryMs ?? pauseMs) : pauseMs, undefined, {
      signal,
    }).catch(() => undefined);
  }
}

function isAborted(error: unknown): boolean {
  return error instanceof Error && error.name === 'AbortError';
}

/** What the server will say the next time too. */
function isFinal(error: unknown): boolean {
  const known = asGridError(error);
  if (!known || known.code === 'PEER_FAILED') return false;
  return !known.row.retry || known.code === 'LIMIT_REACHED';
}

/** Prints events as they happen: lines for people, NDJSON for programs. */
export async function showEvents(
  session: Session,
  query: EventQuery,
  asJson: boolean,
  signal: AbortSignal,
): Promise<void> {
  for await (const event of followEvents(session, query, signal))
    if (event.event !== 'open')
      process.stdout.write(`${asJson ? JSON.stringify(event) : eventLine(event)}\n`);
}

/** `2026-11-25T18:00:00+0000  job    1e3c…  RUNNING  UNICORE_Job` */
export function eventLine({ event, data }: SiteEvent): string {
  if (event === 'reset') return `events were lost, read the lists again: ${data.reason ?? ''}`;
  const { time = '', id = '', status, state, change, name } = data;
  const what = change === 'deleted' || change === 'removed' ? change : (status ?? state ?? change);
  const why = data.statusMessage ?? data.evidence?.fact ?? '';
  return [time, event.padEnd(5), id, what ?? '', name, why].filter(Boolean).join('  ');
}
