import { Socket } from 'node:net';
import { z } from 'zod';
import { asGridError, errorText } from '#kernel/errors.js';
import { createLog } from '#kernel/log.js';
import { GatewayConfig } from './config.js';
import { GatewayServer } from './server.js';
import type { FromWorker } from './workers.js';

const registered = z.object({ name: z.string(), address: z.string() });

/** What the process that started us says. */
const ToWorker = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('start'),
    config: GatewayConfig,
    configFile: z.string().optional(),
    port: z.number(),
    ticketSecret: z.base64(),
    registered: z.array(registered),
    level: z.string(),
  }),
  z.object({ type: z.literal('connection') }),
  z.object({ type: z.literal('reload') }),
  z.object({ type: z.literal('register'), site: registered }),
  z.object({ type: z.literal('close') }),
]);
export type ToWorker = z.input<typeof ToWorker>;

let gateway: GatewayServer | undefined;

function say(message: FromWorker): void {
  process.send?.(message);
}

async function start(order: Extract<z.output<typeof ToWorker>, { type: 'start' }>): Promise<void> {
  const { config, configFile, port, ticketSecret, level } = order;
  const log = createLog({ level }).child({ part: 'gateway', worker: process.pid });
  gateway = await GatewayServer.start(config, {
    log,
    configFile,
    listensElsewhere: port,
    ticketSecret: Buffer.from(ticketSecret, 'base64'),
    registered: order.registered,
    onRegistered: (site, key) => say({ type: 'registered', key, site }),
  });
  say({ type: 'listening', acmePort: gateway.acmePort });
}

async function obey(message: unknown, handle: unknown): Promise<void> {
  const order = ToWorker.parse(message);
  // Without a handle the client has gone meanwhile
  if (order.type === 'connection') {
    if (handle instanceof Socket) gateway?.take(handle);
  } else if (order.type === 'start') await start(order);
  else if (order.type === 'reload') await gateway?.reload();
  else if (order.type === 'register') gateway?.learn(order.site);
  else {
    await gateway?.close();
    process.disconnect();
  }
}

// A terminal or a service manager signals all processes; ours end when the first one says so
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR2'] as const)
  process.on(name, () => undefined);
process.on('message', (message, handle) => {
  void obey(message, handle).catch((error: unknown) => {
    const failed = { type: 'failed', code: asGridError(error)?.code, reason: errorText(error) };
    process.send?.(failed, () => process.disconnect());
  });
});
// What came earlier nobody would have heard
say({ type: 'ready' });
