import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { promisify } from 'node:util';
import { upgradeOf } from './upgrade.js';

/** How long answers that are under way may take when a service closes. */
export const drainTimeoutMs = 10_000;

export type Drainable = {
  /** Closes the server: connections without a request at once, the others after their answer. */
  readonly close: () => Promise<void>;
  /** Ends the connections of now in the same way; those that speak another protocol by now stay. */
  readonly endConnections: () => void;
};

/**
 * Watches a server's connections, so that it can be closed in an orderly way: Node waits for clients
 * that keep a connection open without asking anything.
 * @param connected brings what requests call their socket: with TLS it is not the connection
 */
export function drainable(server: Server, connected: 'connection' | 'secureConnection'): Drainable {
  const connections = new Set<Duplex>();
  const answers = new Map<Duplex, number>();
  const ending = new WeakSet<Duplex>();
  const upgraded = new WeakSet<Duplex>();
  let draining = false;

  server.on('connection', (socket) => {
    connections.add(socket);
    socket.once('close', () => connections.delete(socket));
  });
  server.on(connected, (socket: Duplex) => {
    answers.set(socket, 0);
    socket.once('close', () => answers.delete(socket));
  });
  server.on('request', (request: IncomingMessage, response) => {
    const { socket } = request;
    // a listener for upgrades would make Node let go of each connection that asks for one
    if (upgradeOf(request) !== undefined) upgraded.add(socket);
    answers.set(socket, (answers.get(socket) ?? 0) + 1);
    response.once('close', () => {
      const left = (answers.get(socket) ?? 1) - 1;
      if (answers.has(socket)) answers.set(socket, left);
      if (left === 0 && (draining || ending.has(socket))) socket.destroySoon();
    });
  });

  return {
    async close() {
      draining = true;
      const closed = promisify(server.close.bind(server))();
      for (const [socket, count] of answers) if (count === 0) socket.destroy();
      const timer = setTimeout(() => {
        for (const socket of connections) socket.destroy();
      }, drainTimeoutMs);
      await closed;
      clearTimeout(timer);
    },
    endConnections() {
      for (const [socket, count] of answers)
        if (upgraded.has(socket)) continue;
        else if (count === 0) socket.destroy();
        else ending.add(socket);
    },
  };
}
