import { writeFileSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { EagerDuplex } from '#kernel/net/eager-duplex.js';
import { createAgent } from '#tsi/agent/agent.js';
import { sortConnection } from '#tsi/agent/connections.js';
import { greet } from '#tsi/agent/greeting.js';
import { createLinkServer } from '#tsi/agent/link.js';
import { readSettings } from '#tsi/agent/settings.js';
import type { Done, Order } from './guests.js';

/** Started by {@link AgentProcesses}. */
const [, , directory = ''] = process.argv;
const file = join(directory, `tsi-${process.pid}.properties`);
// one agent for all of them cannot prove to be each
const state = join(directory, `tsi-${process.pid}`);
writeFileSync(file, `tsi.link=none\ntsi.enrolment=0\ntsi.state_dir=${state}\n`);
const agent = createAgent(readSettings(file));
const http2 = createLinkServer(agent, () => undefined);
const machines = new Map<string, { server: Server; sockets: Set<Socket>; path: string }>();

async function start(id: string, path: string): Promise<void> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    void sortConnection(socket, {
      greet: (line) => greet(agent, line),
      channel: () => socket.destroy(),
      link: (connection) => void http2.emit('connection', new EagerDuplex(connection)),
    });
  });
  machines.set(id, { server, sockets, path });
  await new Promise<void>((resolve) => server.listen(path, resolve));
}

function stop(id: string): void {
  const machine = machines.get(id);
  if (!machine) return;
  machines.delete(id);
  machine.server.close();
  for (const socket of machine.sockets) socket.destroy();
  rmSync(machine.path, { force: true });
}

process.on('message', (order: Order) => {
  void (async () => {
    if (order.start !== undefined) await start(order.start, order.socket ?? '');
    if (order.stop !== undefined) stop(order.stop);
    process.send?.({ n: order.n } satisfies Done);
  })();
});
process.on('disconnect', () => process.exit());
