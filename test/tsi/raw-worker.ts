import { randomUUID } from 'node:crypto';
import { connect, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2';
import { ByteSource } from '#kernel/net/byte-source.js';
import type { Scope } from '#kernel/scope.js';
import { alice, dialUnix, type AgentProcess } from './agent-process.js';

export const end = 'ENDOFMESSAGE\n';
export const identity = `#TSI_IDENTITY ${alice.login} NONE`;

/** A worker by its bytes, for what the client would never send. */
export class RawWorker {
  readonly command: ClientHttp2Stream;
  readonly data: ClientHttp2Stream;
  readonly #replies: ByteSource;
  readonly #bytes: ByteSource;

  constructor(session: ClientHttp2Session) {
    const id = randomUUID();
    const open = (half: string): ClientHttp2Stream => {
      const path = `/worker/${id}/${half}`;
      const stream = session.request({ ':method': 'POST', ':path': path }, { endStream: false });
      stream.on('error', () => undefined); // the agent may end it, which is seen by reading
      return stream;
    };
    this.command = open('command');
    this.data = open('data');
    this.#replies = new ByteSource(this.command);
    this.#bytes = new ByteSource(this.data);
  }

  send(...lines: string[]): void {
    this.command.write(`${lines.join('\n')}\n${end}`);
  }

  /** Exactly as many bytes as are expected; less only at the end. */
  async reply(length: number): Promise<string> {
    return RawWorker.#text(this.#replies, length);
  }

  async bytes(length: number): Promise<string> {
    return RawWorker.#text(this.#bytes, length);
  }

  /** Asks, and compares the reply to what is expected, byte for byte. */
  async ask(lines: readonly string[], expected: string): Promise<[string, string]> {
    this.send(...lines);
    return [await this.reply(expected.length), expected];
  }

  static async #text(source: ByteSource, length: number): Promise<string> {
    const chunks: Buffer[] = [];
    try {
      for (let left = length; left > 0;) {
        const chunk = await source.read(left);
        if (!chunk) break;
        left -= chunk.length;
        chunks.push(chunk);
      }
    } catch {
      // ended by the agent: what came before it is the answer
    }
    return Buffer.concat(chunks).toString();
  }
}

export async function openWorker(scope: Scope, agent: AgentProcess): Promise<RawWorker> {
  return new RawWorker(await sessionTo(scope, agent.socket));
}

export async function sessionTo(scope: Scope, socket: string): Promise<ClientHttp2Session> {
  const duplex = await dialUnix(socket);
  const session = connect('http://agent', { createConnection: () => duplex });
  session.on('error', () => undefined);
  scope.defer(() => session.destroy());
  return session;
}
