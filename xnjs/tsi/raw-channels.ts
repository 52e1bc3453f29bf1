import type { Duplex } from 'node:stream';
import { errorText } from '#kernel/errors.js';
import { orAborted } from '#kernel/net/deadline.js';
import { destroySoon } from '#kernel/net/destroy-soon.js';
import { firstLine } from '#kernel/net/first-line.js';
import {
  channelOpen,
  encodeChannelLine,
  maxFirstLineBytes,
  type ChannelLine,
} from '#tsi/protocol/channel-line.js';

/** The agent hangs up, or answers something else: it is older than these channels. */
export class ChannelsUnknown extends Error {}

/** A connection that is one channel of a worker (ADR 017). @throws {@link ChannelsUnknown} */
export async function openChannel(
  dial: (signal: AbortSignal) => Promise<Duplex>,
  line: ChannelLine,
  signal: AbortSignal,
): Promise<Duplex> {
  const connection = await dial(signal);
  connection.on('error', () => connection.destroy()); // whoever reads or writes it is told
  try {
    signal.throwIfAborted();
    connection.write(encodeChannelLine(line));
    const answer = await orAborted(firstLine(connection, maxFirstLineBytes), signal);
    if (answer.toString('latin1') !== channelOpen) throw new Error('another answer');
    return connection;
  } catch (error) {
    destroySoon(connection);
    throw signal.aborted ? error : new ChannelsUnknown(errorText(error), { cause: error });
  }
}
