import { chmodSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import type { Duplex } from 'node:stream';
import { errorText } from '#kernel/errors.js';
import { EagerDuplex } from '#kernel/net/eager-duplex.js';
import { createAgent, type Agent } from './agent.js';
import { sortConnection } from './connections.js';
import { serveDevice } from './device.js';
import { agentVersion } from './facts.js';
import { greet } from './greeting.js';
import { createLinkServer } from './link.js';
import { Pairing } from './pairing.js';
import { defaultSettings, readSettings } from './settings.js';
import { transferFlag } from './uftp.js';

/**
 * How long the host may take to hang up after a shutdown. The agent leaves by itself then, workers or
 * not: the image's init powers the machine off when it has ended.
 */
const hangUpMs = 2_000;

async function main([first = '/etc/unicore-tsi/tsi.properties']: readonly string[]): Promise<void> {
  process.umask(0o077);
  if (first === transferFlag) {
    const { runTransfer } = await import('./uftp-transfer.js');
    await runTransfer();
    return;
  }
  if (first === '--oneshot') {
    const { serveOnce } = await import('./one-shot.js');
    await serveOnce(createAgent(defaultSettings()), process.stdin, process.stdout);
    return;
  }
  await serve(createAgent(readSettings(first)));
}

async function serve(agent: Agent): Promise<void> {
  const { settings, log } = agent;
  // the jobs of this machine depend on the agent: a fault in one request is no reason to leave them
  process.on('uncaughtException', (error) => log.error({ reason: error.stack }, 'a fault of ours'));
  const running: Promise<void>[] = [];
  if (settings.main) {
    const { serveMain } = await import('./tcp-main.js');
    running.push(serveMain(agent, settings.main));
  }
  if (settings.link !== undefined) running.push(serveLink(agent, settings.link));
  log.info({ version: agentVersion, link: settings.link }, 'agent started');
  await Promise.all(running);
}

async function serveLink(agent: Agent, link: string): Promise<void> {
  const http2 = createLinkServer(agent, (session) => {
    const leave = (): void => process.exit(0);
    session.once('close', leave);
    setTimeout(leave, hangUpMs);
  });
  const speak = (connection: Duplex): void => {
    http2.emit('connection', new EagerDuplex(connection));
  };
  const greeted = (line: string): Promise<string | undefined> => greet(agent, line);
  const socketPath = /^unix:(.+)$/.exec(link)?.[1];
  if (socketPath === undefined) {
    await serveDevice(link, agent.log, { greet: greeted, accept: speak });
    return;
  }
  rmSync(socketPath, { force: true });
  const pairing = new Pairing(agent);
  const channel = pairing.add.bind(pairing);
  const server = createServer((socket) => {
    void sortConnection(socket, { greet: greeted, channel, link: speak });
  });
  await listen(server, socketPath);
  // who can connect is root to the agent: nobody but its own account
  chmodSync(socketPath, 0o600);
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
}

main(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`tsi agent: ${errorText(error)}\n`);
  process.exitCode = 1;
});
