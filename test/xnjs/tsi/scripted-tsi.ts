import { duplexPair, type Duplex } from 'node:stream';
import { MessageSource } from '#kernel/net/message-source.js';
import { MessageSplitter } from '#tsi/protocol/framing.js';
import type { TsiTransport } from '#xnjs/tsi/tsi.js';

export type Peer = {
  readonly command: Duplex;
  readonly data: Duplex;
  /** The next request, `undefined` when the client has left. */
  readonly next: () => Promise<string | undefined>;
  readonly say: (...lines: string[]) => void;
};

/** How a worker behaves after the ping that opens it. */
export type Behaviour = (peer: Peer, number: number) => Promise<void> | void;

/**
 * A TSI that does what a real one would not. `opened` counts the workers that were asked for; `ping` is
 * what it answers to the first request of each.
 */
export function scriptedTsi(behave: Behaviour, ping = '11.2.1'): TsiTransport & { opened: number } {
  return {
    name: 'scripted',
    opened: 0,
    async open() {
      const number = (this.opened += 1);
      const [command, theirs] = duplexPair();
      const [data, theirData] = duplexPair();
      const splitter = new MessageSplitter(1_000_000);
      const messages = new MessageSource(theirs, (chunk) => splitter.push(chunk));
      theirData.on('error', () => undefined);
      const peer: Peer = {
        command: theirs,
        data: theirData,
        next: async () => (await messages.next().catch(() => undefined))?.toString(),
        say: (...lines) => theirs.write(`${[...lines, 'ENDOFMESSAGE'].join('\n')}\n`),
      };
      void (async () => {
        await peer.next();
        peer.say('TSI_OK', ping);
        await behave(peer, number);
      })();
      return Promise.resolve({ command, data });
    },
  };
}

export const ours = '11.2.1\nextensions: submit-id literal-path ordered-header';
