import assert from 'node:assert/strict';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { it } from 'node:test';
import { connectTcp } from '#kernel/net/connect.js';
import { until } from '../../tsi/agent-process.js';

it('a connection that was given up does not come about later', async () => {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => sockets.delete(socket));
    socket.resume();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  try {
    const { port } = server.address() as AddressInfo;
    const giveUp = new AbortController();
    const connection = connectTcp({ port, host: '127.0.0.1' }, 10_000, giveUp.signal);
    giveUp.abort(new Error('given up'));
    await assert.rejects(connection, /given up/);
    const later = await connectTcp({ port, host: '127.0.0.1' }, 10_000);
    await until('the later one is there', () =>
      [...sockets].some(({ remotePort }) => remotePort === later.localPort),
    );
    await until('there is no other', () => sockets.size === 1);
    later.destroy();
  } finally {
    server.close();
  }
});
