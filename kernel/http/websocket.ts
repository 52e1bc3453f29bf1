import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { createWebSocketStream, WebSocketServer, type WebSocket } from 'ws';
import { RequestError, type Context } from './operation.js';
import type { Reply } from './reply.js';

export type { WebSocket } from 'ws';

/** The only subprotocol here, of those who name one: messages are bytes. */
const subprotocol = 'binary';
/** Largest message that is taken. */
const maxMessageBytes = 1024 * 1024;

const server = new WebSocketServer({
  noServer: true,
  clientTracking: false,
  perMessageDeflate: false,
  maxPayload: maxMessageBytes,
  handleProtocols: (offered) => (offered.has(subprotocol) ? subprotocol : false),
});
/** What else belongs to the answer to a request: cookies of its session, say. */
const extraHeaders = new WeakMap<IncomingMessage, readonly string[]>();
server.on('headers', (headers, request) => headers.push(...(extraHeaders.get(request) ?? [])));

export function asksForWebSocket({ upgrade }: Context): boolean {
  return upgrade?.toLowerCase() === 'websocket';
}

/**
 * Browsers let any page open a WebSocket to anywhere, with the user's certificate or password if they
 * remember one: only pages of this server, and of `origins`, may. Programs send no origin.
 * @throws `FORBIDDEN`; `BAD_REQUEST` where the handshake would fail
 */
export function checkHandshake({ headers, baseUrl }: Context, origins: readonly string[]): void {
  const { origin } = headers;
  const own = [baseUrl, ...origins].map((url) => new URL(url).origin);
  if (origin !== undefined && !own.includes(origin))
    throw new RequestError('FORBIDDEN', 'pages of this origin may not connect');
  if (!/^[+/0-9A-Za-z]{22}==$/.test(headers['sec-websocket-key'] ?? ''))
    throw new RequestError('BAD_REQUEST', 'Sec-WebSocket-Key: must be 16 bytes in base64');
  if (headers['sec-websocket-version'] !== '13')
    throw new RequestError('BAD_REQUEST', 'Sec-WebSocket-Version: must be 13');
}

/** 101; after {@link checkHandshake}. `accept` may come to nothing: the client may have gone. */
export function webSocket(accept: (socket: WebSocket) => void): Reply {
  return {
    status: 101,
    headers: {},
    upgrade: {
      shakeHands: (request, headers) => {
        extraHeaders.set(request, headers);
        server.handleUpgrade(request, request.socket, Buffer.alloc(0), accept);
      },
    },
  };
}

/** Its messages as a stream of bytes, with back-pressure both ways. */
export function asStream(socket: WebSocket): Duplex {
  return createWebSocketStream(socket);
}

export function isOpen({ readyState, OPEN }: WebSocket): boolean {
  return readyState === OPEN;
}
