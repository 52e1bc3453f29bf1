import { request as httpsRequest } from 'node:https';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import type { SecureContextOptions } from 'node:tls';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { GridError } from '#kernel/errors.js';
import { codeOf, errorMessageIn, PeerError, unavailable } from './client-answers.js';

export type UpgradeOptions = {
  readonly url: URL;
  readonly protocol: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly tls?: SecureContextOptions | undefined;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
};

const longestErrorBytes = 65_536;

/**
 * Asks for another protocol on a connection of its own. Either side may end its half first.
 * @throws what the server says instead; `SITE_UNAVAILABLE`
 */
export function openUpgrade(options: UpgradeOptions): Promise<Duplex> {
  const { url, protocol, headers, tls, timeoutMs, signal } = options;
  const send = url.protocol === 'https:' ? httpsRequest : httpRequest;
  return new Promise((resolve, reject) => {
    const request = send(url, {
      ...tls,
      ...(signal && { signal }),
      agent: false,
      headers: { ...headers, connection: 'Upgrade', upgrade: protocol },
    });
    const late = (): void => void request.destroy(new Error(`not within ${timeoutMs} ms`));
    const timer = setTimeout(late, timeoutMs);
    const settle = (act: () => void): void => {
      clearTimeout(timer);
      act();
    };
    request.once('upgrade', (_answer: IncomingMessage, socket: Socket, head: Buffer) =>
      settle(() => {
        if (head.length > 0) socket.unshift(head);
        socket.allowHalfOpen = true;
        resolve(socket);
      }),
    );
    request.once('response', (answer: IncomingMessage) =>
      settle(() => void refusal(answer, url).then(reject, reject)),
    );
    request.on('error', (error) => settle(() => reject(toError(unavailable(error, url.host)))));
    request.end();
  });
}

export function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}

/** What an answer says that is no 101. */
export async function refusal(
  answer: IncomingMessage,
  { host, pathname }: URL,
): Promise<GridError> {
  const { statusCode: status = 0 } = answer;
  let text = '';
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    text += chunk.toString();
    if (text.length > longestErrorBytes) break;
  }
  const said = errorMessageIn(text);
  const reason = said ?? `GET ${pathname}: ${host} answered ${status}`;
  if (status < 400) return new PeerError('PEER_FAILED', reason, { status });
  return new GridError(codeOf(status), reason, { status });
}
