import { lookup } from 'node:dns/promises';
import { readFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { TLSSocket } from 'node:tls';
import { errorText } from '#kernel/errors.js';
import { ByteSource } from '#kernel/net/byte-source.js';
import { connectTcp } from '#kernel/net/connect.js';
import { sameAddress } from '#kernel/net/peer-address.js';
import { acceptTls, startTls, type MutualTls } from '#kernel/net/tls-upgrade.js';
import { longestEnrolment } from '../protocol/enrolment.js';
import type { Agent } from './agent.js';
import { admitsName, type Subject } from './distinguished-names.js';
import { connectService, relay } from './forwarding.js';
import type { Enrolment, MachineCredential } from './enrolment.js';
import type { MainSettings } from './settings.js';
import { serveWorker } from './worker.js';

/** A peer that connects and says nothing holds up nobody, and not for long. */
const requestMs = 10_000;
const maxRequestBytes = 1_024;
/** UNICORE/X may open its listener only after it has asked. */
const callBackMs = 5_000;
const callBackPauseMs = 100;
const connectMs = 10_000;

/** The classic main (§1.2–1.6): asked for a worker over one connection, it calls back with two. */
export async function serveMain(agent: Agent, settings: MainSettings): Promise<void> {
  const server = createServer((socket) => {
    const peer = socket.remoteAddress ?? '';
    socket.on('error', (error) => agent.log.debug({ peer, reason: error.message }, 'peer lost'));
    const silent = setTimeout(() => socket.destroy(), requestMs);
    void serveRequest(agent, settings, socket, () => server.close())
      .catch((error: unknown) =>
        agent.log.warn({ peer, reason: errorText(error) }, 'a request to the main failed'),
      )
      .finally(() => {
        clearTimeout(silent);
        socket.destroy();
      });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port: settings.port, host: settings.host }, resolve);
  });
  agent.log.info({ address: server.address() }, 'the main listens');
}

async function serveRequest(
  agent: Agent,
  settings: MainSettings,
  plain: Socket,
  shutdown: () => void,
): Promise<void> {
  const peer = plain.remoteAddress ?? '';
  if (!(await mayConnect(settings, peer))) throw new Error('the address is not in the list');
  const { socket, shown } = settings.tls
    ? await accept(agent, settings.tls, plain)
    : { socket: plain };
  const isSecret = settings.tls !== undefined;
  const request = await readLine(socket, isSecret ? longestEnrolment : maxRequestBytes);
  const [verb, argument] = request.split(/\s+/);
  if (verb === 'enrolment' && isSecret && agent.enrolment) {
    await enrol(agent.enrolment, socket, request.slice(verb.length));
    return;
  }
  if (verb === 'shutdown') {
    shutdown();
    return;
  }
  const port = settings.replyPort ?? Number(argument);
  const known = verb === 'newtsiprocess' || verb === 'start-forwarding';
  if (!known || !Number.isInteger(port) || port < 1 || port > 65_535)
    throw new Error('the request is not known');
  // left open until it is called back: so whoever asks sees when we die in between
  socket.write('OK\n');
  const callingBack = { ...settings, shown };
  const command = await callBack(callingBack, peer, port);
  if (verb === 'start-forwarding') {
    void serveForwarding(agent, command, request);
    return;
  }
  try {
    const data = await callBack(callingBack, peer, port);
    void serveWorker(agent, command, data);
  } catch (error) {
    command.destroy();
    throw error;
  }
}

/**
 * `start-forwarding <port> <service> <user> <groups>`, called back already: whoever asked waits for that,
 * and sees by its end that there is no such service (§1.8).
 */
async function serveForwarding(agent: Agent, client: Socket, request: string): Promise<void> {
  client.allowHalfOpen = true;
  try {
    const [, service = '', login = '', groups = ''] =
      /^\S+\s+\S+\s+(.+)\s+(\S+)\s+(\S+)$/.exec(request) ?? [];
    const user = await agent.users.resolve({ login, groups });
    const socket = await connectService(agent.users, user, service);
    await relay(client, socket, agent.settings.forwardingRate);
  } catch (error) {
    agent.log.info({ reason: errorText(error) }, 'a forwarded connection ended early');
    client.destroySoon(); // not before a handshake that still goes on there
  }
}

/** Names are looked up each time: an XNJS may move. */
async function mayConnect({ clients }: MainSettings, peer: string): Promise<boolean> {
  const known = await Promise.all(
    clients.map((host) => lookup(host, { all: true }).catch(() => [])),
  );
  return known.flat().some(({ address }) => sameAddress(address, peer));
}

/** `enrolment <json>`, answered by one line of JSON when what has come of it is on the disk (ADR 039). */
async function enrol(enrolment: Enrolment, socket: Socket, question: string): Promise<void> {
  const say = (line: string): Promise<void> =>
    new Promise((said) => socket.end(`${line}\n`, () => said()));
  try {
    await say(JSON.stringify(enrolment.answer(question)));
  } catch (error) {
    // silence would say that the question is not known
    await say('FAILED');
    throw error;
  }
}

type TlsSettings = NonNullable<MainSettings['tls']>;

/** Read for each handshake, so that files can be renewed. */
function loadTls({ keyFile, certFile, caFile, passphrase }: TlsSettings): MutualTls {
  return {
    key: readFileSync(keyFile, 'utf8'),
    cert: readFileSync(certFile, 'utf8'),
    ...(caFile !== undefined && { ca: readFileSync(caFile, 'utf8') }),
    ...(passphrase !== undefined && { passphrase }),
  };
}

type Accepted = { readonly socket: TLSSocket; readonly shown?: MachineCredential | undefined };

/** @returns also what was shown, where the client asked for this very machine and not for the image's TSI */
async function accept(agent: Agent, tls: TlsSettings, plain: Socket): Promise<Accepted> {
  let shown: MachineCredential | undefined;
  const shownAs = (name: string): MachineCredential | undefined =>
    (shown = agent.enrolment?.credentialOf(name));
  const socket = await acceptTls(plain, { ...loadTls(tls), shownAs }, requestMs);
  const subject = socket.getPeerCertificate().subject as unknown as Subject | undefined;
  if (subject && tls.allowedDns.some((dn) => admitsName(dn, subject))) return { socket, shown };
  throw new Error('the name is not in the list');
}

async function readLine(socket: Socket, maxBytes: number): Promise<string> {
  const source = new ByteSource(socket);
  let line = '';
  while (!line.includes('\n')) {
    const chunk = await source.read(maxBytes - line.length);
    if (!chunk) break;
    line += chunk.toString('latin1'); // a character may come in two pieces
    if (line.length >= maxBytes) throw new Error('the request is too long');
  }
  return Buffer.from(line, 'latin1').toString().trim();
}

type CallingBack = MainSettings & Pick<Accepted, 'shown'>;

/** One connection to whoever asked, tried again for some seconds. */
async function callBack(settings: CallingBack, host: string, port: number): Promise<Socket> {
  const { tls, shown } = settings;
  for (const until = Date.now() + callBackMs; ;) {
    try {
      const localPort = freeLocalPort(settings);
      const options = { host, port, ...(localPort !== undefined && { localPort }) };
      const socket = await connectTcp(options, connectMs);
      return tls ? await startTls(socket, { ...loadTls(tls), ...shown }, requestMs) : socket;
    } catch (error) {
      if (Date.now() > until) throw error;
      await sleep(callBackPauseMs);
    }
  }
}

let nextLocalPort = 0;

/** One after the other of the range; one that is in use costs a try. */
function freeLocalPort({ localPorts }: MainSettings): number | undefined {
  if (!localPorts) return undefined;
  const [lowest, highest] = localPorts;
  nextLocalPort += 1;
  return lowest + (nextLocalPort % Math.max(1, highest - lowest + 1));
}
