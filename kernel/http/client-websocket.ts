import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { createWebSocketStream, WebSocket } from 'ws';
import { unavailable } from './client-answers.js';
import { refusal, toError, type UpgradeOptions } from './client-upgrade.js';

export type { WebSocket } from 'ws';

/** Its messages as a stream of bytes, with back-pressure both ways. */
export function socketStream(socket: WebSocket): Duplex {
  const stream = createWebSocketStream(socket);
  socket.resume();
  return stream;
}

/** Paused until somebody reads: `resume`. @throws what the server says instead; `SITE_UNAVAILABLE` */
export function openWebSocket(options: Omit<UpgradeOptions, 'protocol'>): Promise<WebSocket> {
  const { url, headers, tls, timeoutMs, signal } = options;
  signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, {
      ...{ ...tls, headers, handshakeTimeout: timeoutMs, perMessageDeflate: false },
      maxPayload: 16 * 1024 * 1024,
    });
    const abort = (): void => socket.terminate();
    signal?.addEventListener('abort', abort, { once: true });
    socket.once('close', () => signal?.removeEventListener('abort', abort));
    socket.once('unexpected-response', (_request, answer: IncomingMessage) => {
      void refusal(answer, url)
        .then(reject, reject)
        .finally(() => socket.terminate());
    });
    socket.on('error', (error) => reject(toError(unavailable(error, url.host))));
    socket.once('open', () => {
      socket.pause(); // nothing is lost before there are listeners
      resolve(socket);
    });
  });
}
