import type { Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { promisify } from 'node:util';

/** How long answers that are under way may take when a service closes. */
export const drainTimeoutMs = 10_000;

/**
 * Watches a server's connections, so that it can be closed in an orderly way: Node waits for clients
 * that keep a connection open without asking anything.
 * @param connected brings what requests call their socket: with TLS it is not the connection
 * @returns closes the server: connections without a request at once, the others after their answer
 */
export function drainable(
  server: Server,
  connected: 'connection' | 'secureConnection',
): () => Promise<void> {
  const connections = new Set<Duplex>();
  const answers = new Map<Duplex, number>();
  let draining = false;

  server.on('connection', (socket) => {
    connections.add(socket);
    socket.once('close', () => connections.delete(socket));
  });
  server.on(connected, (socket: Duplex) => {
    answers.set(socket, 0);
    socket.once('close', () => answers.delete(socket));
  });
  server.on('request', ({ socket }, response) => {
    answers.set(socket, (answers.get(socket) ?? 0) + 1);
    response.once('close', () => {
      const left = (answers.get(socket) ?? 1) - 1;
      if (answers.has(socket)) answers.set(socket, left);
      if (draining && left === 0) socket.destroySoon();
    });
  });

  return async () => {
    draining = true;
    const closed = promisify(server.close.bind(server))();
    for (const [socket, count] of answers) if (count === 0) socket.destroy();
    const timer = setTimeout(() => {
      for (const socket of connections) socket.destroy();
    }, drainTimeoutMs);
    await closed;
    clearTimeout(timer);
  };
}
