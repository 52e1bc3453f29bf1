import {
  createServer,
  type Http2Server,
  type Http2Session,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import { errorText } from '#kernel/errors.js';
import { destroySoon } from '#kernel/net/destroy-soon.js';
import type { Agent } from './agent.js';
import { collectFacts } from './facts.js';
import {
  becomeAnother,
  catchUpClock,
  enrol,
  forward,
  setUpMachine,
  streamExits,
} from './link-streams.js';
import { Pairing } from './pairing.js';

/** How much the host may send ahead: per stream, and over the whole link. Its heartbeats wait behind it. */
const streamWindow = 1024 * 1024;
const linkWindow = 4 * 1024 * 1024;
const maxStreams = 1_024;
/**
 * A host that left while the machine stood still is noticed by its silence. Longer than a host of ten thousand
 * machines takes between two heartbeats (ADR 38): it should not have as many pings to answer as it sends.
 */
const pingMs = 11_000;
const unansweredPings = 1;

type Shutdown = (session: Http2Session) => void;
/**
 * The agent's end of the agent link (ADR 004): HTTP/2 over any byte stream. Whoever holds the other end is
 * trusted like the host itself.
 * @param shutdown called when `POST /shutdown` has been answered, on the session that it came by
 */
export function createLinkServer(agent: Agent, shutdown: Shutdown): Http2Server {
  const settings = {
    initialWindowSize: streamWindow,
    maxConcurrentStreams: maxStreams,
    enableConnectProtocol: false,
  };
  const server = createServer({ settings, maxSessionMemory: 64 });
  server.on('session', (session) => {
    const pairing = new Pairing(agent);
    session.setLocalWindowSize(linkWindow);
    session.on('stream', (stream, headers) => route(agent, pairing, shutdown, stream, headers));
    session.on('error', (error) =>
      agent.log.info({ reason: errorText(error) }, 'the agent link broke'),
    );
    const stop = watch(session);
    session.once('close', () => {
      stop();
      pairing.stop();
    });
  });
  return server;
}

/** A host that sends heartbeats itself is not asked for them. @returns what ends the watch */
function watch(session: Http2Session): () => void {
  let unanswered = 0;
  let wasHeard = false;
  session.on('ping', () => (wasHeard = true));
  const timer = setInterval(() => {
    if (wasHeard) {
      wasHeard = false;
      unanswered = 0;
      return;
    }
    unanswered += 1;
    if (unanswered > unansweredPings) destroySoon(session);
    else session.ping(() => (unanswered = 0));
  }, pingMs);
  return () => clearInterval(timer);
}

function route(
  agent: Agent,
  pairing: Pairing,
  shutdown: Shutdown,
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
): void {
  stream.on('error', (error) =>
    agent.log.debug({ reason: errorText(error) }, 'a stream of the agent link broke'),
  );
  const request = `${headers[':method'] ?? ''} ${headers[':path'] ?? ''}`;
  const worker = /^POST \/worker\/([0-9a-f-]{36})\/(command|data)$/.exec(request);
  if (request === 'GET /facts') {
    stream.respond({ ':status': 200, 'content-type': 'application/json' });
    const reservations = agent.bss.reservations !== undefined;
    stream.end(JSON.stringify({ ...collectFacts(agent.settings), reservations }));
  } else if (worker?.[1]) {
    stream.respond({ ':status': 200 });
    const half = worker[2] === 'data' ? 'data' : 'command';
    pairing.add({ worker: worker[1], half }, stream);
  } else if (request === 'GET /exits') {
    streamExits(agent, stream);
  } else if (request === 'POST /identity') {
    void becomeAnother(agent, stream);
  } else if (request === 'POST /enrolment' && agent.enrolment) {
    void enrol(agent.enrolment, agent.log, stream);
  } else if (request === 'POST /setup' && agent.setup) {
    void setUpMachine(agent.setup, agent.log, stream);
  } else if (request === 'POST /clock') {
    void catchUpClock(agent, stream);
  } else if (request === 'POST /forward') {
    void forward(agent, stream, headers);
  } else if (request === 'POST /shutdown') {
    stream.respond({ ':status': 200 });
    stream.end();
    const { session } = stream;
    stream.once('close', () => session && shutdown(session));
  } else {
    stream.respond({ ':status': 404 }, { endStream: true });
  }
}
