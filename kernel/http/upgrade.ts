import { IncomingMessage, ServerResponse, type Server } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Upgrade } from './reply.js';

/** Requests whose connection Node has let go of. */
const released = new WeakSet<IncomingMessage>();

/** The protocol that a request wants to go over to, if its connection can. */
export function upgradeOf(request: IncomingMessage): string | undefined {
  return released.has(request) ? request.headers.upgrade : undefined;
}

/**
 * The class of a server's requests: those that do not fit are read to the end of their body and get an ordinary
 * answer, whatever protocol they would go over to. Node by itself lets go of every connection whose request asks for
 * one, as soon as the server serves any.
 */
export function requestsThatUpgrade(
  fits: (request: IncomingMessage) => boolean,
): typeof IncomingMessage {
  const asked = new WeakSet<IncomingMessage>();
  return class extends IncomingMessage {
    /** Set by Node before the headers are known, read when they are. */
    get upgrade(): boolean {
      return asked.has(this) && (this.method === 'CONNECT' || fits(this));
    }

    set upgrade(asks: boolean | null) {
      if (asks === true) asked.add(this);
      else asked.delete(this);
    }
  };
}

/** For servers with {@link serveUpgrades}: a GET alone may go over to another protocol. */
export const GetMayUpgrade = requestsThatUpgrade(
  (request) => request.method === 'GET' && !hasBody(request),
);

/**
 * Lets requests that ask for another protocol go the way of all others: the operation says whether the
 * client may, and answers with `upgrade`. Without this call Node leaves the wish aside.
 * @param server its requests are {@link GetMayUpgrade}
 */
export function serveUpgrades(server: Server): void {
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    socket.on('error', () => socket.destroy());
    released.add(request);
    if (head.length > 0) socket.unshift(head);
    server.emit('request', request, responseAfterUpgrade(request));
  });
}

/** An answer on a connection that Node has let go of. */
export function responseAfterUpgrade(request: IncomingMessage): ServerResponse {
  const response = new ServerResponse(request);
  response.shouldKeepAlive = false;
  response.assignSocket(request.socket);
  response.once('finish', () => request.socket.end());
  return response;
}

/** To be called instead of an answer, with its headers set: sends 101 and gives the connection away. */
export function takeOver(
  upgrade: Upgrade,
  request: IncomingMessage,
  response: ServerResponse,
): void {
  const { socket } = request;
  response.statusCode = 101;
  const lines = Object.entries(response.getHeaders()).map(
    ([name, value]) => `${name}: ${String(value)}`,
  );
  response.detachSocket(socket);
  socket.setTimeout(0);
  // as far as HTTP goes, this is over then: it is logged, and a server that closes does not wait for it
  const over = (): boolean => response.emit('close');
  if ('shakeHands' in upgrade) {
    upgrade.shakeHands(request, lines);
    over();
    return;
  }
  const { protocol, accept } = upgrade;
  const head = ['HTTP/1.1 101 Switching Protocols', 'Connection: Upgrade', `Upgrade: ${protocol}`];
  socket.allowHalfOpen = true;
  // on its own: clients lose what comes together with it
  socket.write([...head, ...lines, '', ''].join('\r\n'), () => {
    accept(socket);
    over();
  });
}

/** A request without these has no body (RFC 9112, 6.3). */
export function hasBody({ headers }: IncomingMessage): boolean {
  const length = headers['content-length'];
  return (length !== undefined && length !== '0') || headers['transfer-encoding'] !== undefined;
}
