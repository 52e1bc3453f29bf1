import type { ByteInput } from '#kernel/net/byte-input.js';
import type { Command, Message } from '../protocol/message.js';
import { encodeOk } from '../protocol/reply.js';
import type { Agent } from './agent.js';
import type { User } from './users.js';

/** One request being answered. */
export type Exchange = {
  readonly message: Message;
  /** Whom the request names. Rejects for whom nothing is run. */
  readonly user: () => Promise<User>;
  readonly data: {
    readonly incoming: Pick<ByteInput, 'take'>;
    readonly write: (chunk: Buffer) => Promise<void>;
  };
  /** Sends a part of the reply before its last. */
  readonly reply: (text: string) => Promise<void>;
  /** Fires when the client has left. */
  readonly gone: AbortSignal;
};

/** @returns the reply, or what is left of it, with its terminator */
export type Handler = (agent: Agent, exchange: Exchange) => Promise<string>;

type Payload = string | undefined;

/** Before version 11 some replies do without `TSI_OK` (§ appendix B). */
export function leavesOkOut({ settings }: Agent): boolean {
  return Number.parseInt(settings.version, 10) < 11;
}

/** A handler whose answer is one payload; without one `TSI_OK` alone, in every dialect. */
export function on<T>(
  command: Command<T>,
  run: (agent: Agent, value: T, exchange: Exchange) => Promise<Payload> | Payload,
): readonly [string, Handler] {
  return [
    command.name,
    async (agent, exchange) => {
      const value = command.decode(exchange.message);
      const payload = await run(agent, value, exchange);
      return encodeOk(payload, command.bare && leavesOkOut(agent) && payload !== undefined);
    },
  ];
}
