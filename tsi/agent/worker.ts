import type { Duplex } from 'node:stream';
import { errorText } from '#kernel/errors.js';
import { destroySoon } from '#kernel/net/destroy-soon.js';
import { MessageSource } from '#kernel/net/message-source.js';
import { openInput } from '#kernel/net/socket-source.js';
import { write } from '#kernel/net/write.js';
import { MessageSplitter } from '../protocol/framing.js';
import { parseMessage } from '../protocol/message.js';
import { encodeFailed } from '../protocol/reply.js';
import { refuse } from '../protocol/scalars.js';
import type { Agent } from './agent.js';
import type { Exchange } from './handler.js';
import { findHandler } from './handlers.js';
import { OutOfStep } from './out-of-step.js';

/** Longest request: a script, mostly. */
const maxRequestBytes = 16 * 1024 * 1024;
/** Requests that wait behind the one being answered before no more are read. */
const maxQueued = 4;

/**
 * Serves one pair of channels until the command channel ends: a message, its reply, the next message.
 * A failure is a reply; only what puts the channels out of step ends the pair.
 */
export async function serveWorker(
  agent: Agent,
  command: Duplex,
  dataChannel: Duplex,
): Promise<void> {
  const { input: incoming, stream: data } = openInput(dataChannel);
  const end = (): void => {
    destroySoon(command);
    destroySoon(data);
  };
  const share = agent.requests.join(end);
  if (!share) {
    agent.log.warn({}, 'there are too many workers');
    end();
    return;
  }
  const splitter = new MessageSplitter(maxRequestBytes);
  let unanswered = 0;
  const split = (chunk: Buffer): Buffer[] => {
    const found = splitter.push(chunk);
    for (const { length } of found) unanswered += length;
    share.hold(unanswered + splitter.pendingBytes);
    return found;
  };
  const messages = new MessageSource(command, split, maxQueued);
  const gone = new AbortController();
  messages.onEnd = () => {
    gone.abort();
    destroySoon(data);
  };
  data.once('close', () => destroySoon(command));
  const exchange = {
    data: { incoming, write: (chunk: Buffer) => write(data, chunk) },
    reply: (text: string) => write(command, text),
    gone: gone.signal,
  };
  try {
    for (let wire = await messages.next(); wire; wire = await messages.next()) {
      await exchange.reply(await answer(agent, wire, exchange));
      unanswered -= wire.length;
      share.hold(unanswered + splitter.pendingBytes);
    }
  } catch (error) {
    agent.log.info({ reason: errorText(error) }, 'a worker ends early');
  } finally {
    share.leave();
    command.end();
    data.end();
  }
}

/** @throws {@link OutOfStep} */
export async function answer(
  agent: Agent,
  wire: Buffer,
  exchange: Omit<Exchange, 'message' | 'user'>,
): Promise<string> {
  try {
    const message = parseMessage(decode(wire));
    const handler = findHandler(message);
    const user = () => agent.users.resolve(message.identity);
    return await handler(agent, { ...exchange, message, user });
  } catch (error) {
    if (error instanceof OutOfStep) throw error;
    agent.log.debug({ reason: errorText(error) }, 'a command failed');
    return encodeFailed(errorText(error));
  }
}

function decode(wire: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(wire);
  } catch {
    return refuse('the message is not UTF-8');
  }
}
