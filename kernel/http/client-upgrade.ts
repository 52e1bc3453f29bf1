import { request as httpsRequest } from 'node:https';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import type { SecureContextOptions } from 'node:tls';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { GridError } from '#kernel/errors.js';
import { toGridError, unavailable } from './client-answers.js';

export type UpgradeOptions = {
  readonly url: URL;
  readonly protocol: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly tls?: SecureContextOptions | undefined;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
};

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
    // its text, too, has to come in time
    request.once('response', (answer: IncomingMessage) => {
      void refusal(answer, url).then((error) => settle(() => reject(error)), reject);
    });
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
  return await toGridError(answer.statusCode ?? 0, answer, `GET ${pathname}: ${host}`);
}
