import type { Socket } from 'node:net';
import { firstLine } from '#kernel/net/first-line.js';
import { channelOpen, decodeChannelLine, type ChannelLine } from '../protocol/channel-line.js';
import { longestGreeting } from '../protocol/greeting.js';

/** A host that connects and says nothing is not waited for longer. */
const silenceMs = 10_000;

export type Destinations = {
  /** What was said before HTTP/2, in one line. @returns the answer; `undefined`: it is no greeting */
  readonly greet: (line: string) => Promise<string | undefined>;
  /** The connection is one channel of a worker from here on. */
  readonly channel: (line: ChannelLine, connection: Socket) => void;
  /** It speaks HTTP/2, or nonsense, which HTTP/2 refuses. All that was read of it is in it again. */
  readonly link: (connection: Socket) => void;
};

/** Finds out by the first line what a connection is for. */
export async function sortConnection(
  connection: Socket,
  { greet, channel, link }: Destinations,
): Promise<void> {
  const timer = setTimeout(() => connection.destroy(), silenceMs);
  connection.on('error', () => connection.destroy()); // a host that has left
  try {
    const first = await firstLine(connection, longestGreeting);
    const line = decodeChannelLine(first.toString('latin1'));
    if (line) {
      connection.write(channelOpen);
      channel(line, connection);
      return;
    }
    const answer = await greet(first.toString('latin1'));
    if (answer === undefined) connection.unshift(first);
    else if (answer !== '') connection.write(answer);
    link(connection);
  } catch {
    connection.destroy(); // it ended before it said anything
  } finally {
    clearTimeout(timer);
  }
}
