import type { Readable, Writable } from 'node:stream';
import { errorText } from '#kernel/errors.js';
import { write } from '#kernel/net/write.js';
import { TsiError } from '../protocol/error.js';
import { terminator } from '../protocol/framing.js';
import { encodeFailed } from '../protocol/reply.js';
import type { Agent } from './agent.js';
import type { Exchange } from './handler.js';
import { answer } from './worker.js';

const maxMessageBytes = 16 * 1024 * 1024;
const blockBegin = '---BEGIN DATA BASE64---';
const blockEnd = '---END DATA---';

/**
 * One message from a stream, its reply to another, no more (§1.9): how UNICORE/X asks a TSI over SSH. What
 * would travel on the data channel is a block in Base64.
 */
export async function serveOnce(agent: Agent, input: Readable, output: Writable): Promise<void> {
  const lines = readLines(input);
  const gone = new AbortController();
  output.on('error', () => gone.abort());
  try {
    const message = await readUntil(lines, terminator);
    const sent: Buffer[] = [];
    const exchange = {
      data: {
        incoming: incomingBlock(lines),
        write: (piece: Buffer) => {
          sent.push(Buffer.from(piece)); // its memory is used again
          return Promise.resolve();
        },
      },
      reply: (text: string) => write(output, text),
      gone: gone.signal,
    };
    const last = await answer(agent, message, exchange);
    await write(output, encodeBlock(sent) + last);
  } catch (error) {
    if (!gone.signal.aborted) await write(output, encodeFailed(errorText(error)));
  } finally {
    input.destroy();
  }
}

/** Lines without their breaks, as bytes: whether they are text is not known here. */
async function* readLines(input: Readable): AsyncGenerator<Buffer, void> {
  let pieces: Buffer[] = [];
  let size = 0;
  for await (const chunk of input as AsyncIterable<Buffer>) {
    let rest = chunk;
    for (let at = rest.indexOf(10); at >= 0; at = rest.indexOf(10)) {
      yield Buffer.concat([...pieces, rest.subarray(0, at)]);
      pieces = [];
      size = 0;
      rest = rest.subarray(at + 1);
    }
    pieces.push(rest);
    size += rest.length;
    if (size > maxMessageBytes) throw new TsiError('TSI_PROTOCOL', 'a line is too long');
  }
  if (size > 0) yield Buffer.concat(pieces);
}

async function readUntil(lines: AsyncGenerator<Buffer, void>, last: string): Promise<Buffer> {
  const found: Buffer[] = [];
  let size = 0;
  for (;;) {
    const { value: line } = await lines.next();
    if (!line) throw new TsiError('TSI_PROTOCOL', `the input ends before ${last}`);
    if (line.length < 64 && line.toString('latin1').trim() === last) return Buffer.concat(found);
    found.push(line, Buffer.from('\n'));
    size += line.length + 1;
    if (size > maxMessageBytes)
      throw new TsiError('TSI_PROTOCOL', `a message is longer than ${maxMessageBytes} bytes`);
  }
}

/** What a client sends as data: one block, and for no bytes none. */
function incomingBlock(lines: AsyncGenerator<Buffer, void>): Exchange['data']['incoming'] {
  return {
    async take(length, sink) {
      if (length === 0) return true;
      const text = (await readUntil(lines, blockEnd)).toString('latin1').trim();
      if (!text.startsWith(blockBegin))
        throw new TsiError('TSI_PROTOCOL', `data must begin with ${blockBegin}`);
      const bytes = Buffer.from(text.slice(blockBegin.length), 'base64').subarray(0, length);
      await sink([bytes]);
      return bytes.length === length;
    },
  };
}

function encodeBlock(pieces: readonly Buffer[]): string {
  if (pieces.length === 0) return '';
  return `${blockBegin}\n${Buffer.concat(pieces).toString('base64')}\n${blockEnd}\n`;
}
