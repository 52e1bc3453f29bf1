import type { IncomingHttpHeaders, ServerHttp2Stream } from 'node:http2';
import { errorText } from '#kernel/errors.js';
import { destroySoon } from '#kernel/net/destroy-soon.js';
import { longestEnrolment } from '../protocol/enrolment.js';
import { decodeMachineClock } from '../protocol/machine-clock.js';
import { decodeMachineIdentity } from '../protocol/machine-identity.js';
import { decodeMachineSetup, longestSetup } from '../protocol/machine-setup.js';
import type { Agent } from './agent.js';
import type { Enrolment } from './enrolment.js';
import { connectService, relay } from './forwarding.js';
import { zeroFreeMemory } from './free-memory.js';
import type { Log } from './log.js';
import { assumeIdentity, catchUp, identityFacts } from './machine-identity.js';
import type { MachineSetupWork } from './machine-setup.js';

/** A server that does not read the ends of its jobs asks again, and for the status. */
const maxUnreadBytes = 1024 * 1024;
const maxIdentityBytes = 4_096;

/** `GET /exits`: the id of each job, the pid of each run on the login node, as it ends; a line each. */
export function streamExits({ bss, loginNode, log }: Agent, stream: ServerHttp2Stream): void {
  const tell = (id: string): void => {
    if (stream.destroyed || stream.writableEnded) return;
    stream.write(`${id}\n`);
    if (stream.writableLength <= maxUnreadBytes) return;
    log.warn({}, 'the ends of jobs are not read');
    destroySoon(stream);
  };
  const stops = [bss.onExit?.(tell), loginNode.onExit(tell)];
  stream.once('close', () => stops.forEach((stop) => stop?.()));
  stream.respond({ ':status': 200, 'content-type': 'text/plain' });
}

/**
 * `POST /forward`: becomes a connection to a service, or says why not. The headers `tsi-identity` (two
 * words, as in messages) and `tsi-service` are percent-encoded.
 */
export async function forward(
  agent: Agent,
  stream: ServerHttp2Stream,
  headers: IncomingHttpHeaders,
): Promise<void> {
  try {
    const [, login = '', groups = ''] = /^(\S+) (\S+)$/.exec(text(headers['tsi-identity'])) ?? [];
    const identity = login === '' ? undefined : { login, groups };
    const user = await agent.users.resolve(identity);
    const service = await connectService(agent.users, user, text(headers['tsi-service']));
    if (stream.destroyed) {
      service.destroy();
      return;
    }
    stream.respond({ ':status': 200 });
    await relay(stream, service, agent.settings.forwardingRate);
  } catch (error) {
    agent.log.info({ reason: errorText(error) }, 'a forwarded connection ended early');
    if (stream.headersSent || stream.destroyed) destroySoon(stream);
    else {
      stream.respond({ ':status': 502, 'content-type': 'text/plain' });
      stream.end(errorText(error));
    }
  }
}

/** `POST /identity`: answered when the machine is what it was told to be. */
export async function becomeAnother(agent: Agent, stream: ServerHttp2Stream): Promise<void> {
  await obey(agent, stream, async (json, receivedMs) => {
    const identity = decodeMachineIdentity(json);
    await assumeIdentity(identity, receivedMs);
    // the proof comes next, when somebody waits for it
    if (identity.isRehearsal) agent.enrolment?.rehearse();
    // soon it is saved
    if (identity.isRehearsal && identity.isCopy) await zeroFreeMemory();
  });
}

/** `POST /clock`: answered when the machine knows what time it is. */
export async function catchUpClock(agent: Agent, stream: ServerHttp2Stream): Promise<void> {
  await obey(agent, stream, (json, receivedMs) => catchUp(decodeMachineClock(json), receivedMs));
}

/** @param order what is done with the body, and when that had come */
async function obey(
  agent: Agent,
  stream: ServerHttp2Stream,
  order: (json: string, receivedMs: number) => Promise<void>,
): Promise<void> {
  try {
    const json = await readBody(stream, maxIdentityBytes);
    const receivedMs = performance.now();
    if (!identityFacts(agent.settings).identity)
      throw new Error('this agent changes nothing of its machine');
    await order(json, receivedMs);
    stream.respond({ ':status': 200 }, { endStream: true });
  } catch (error) {
    agent.log.error({ reason: errorText(error) }, 'the machine could not be changed');
    if (stream.destroyed) return;
    stream.respond({ ':status': 500, 'content-type': 'text/plain' });
    stream.end(errorText(error));
  }
}

/** `POST /enrolment`: answered when what has come of it is on the disk. */
export async function enrol(
  enrolment: Enrolment,
  log: Log,
  stream: ServerHttp2Stream,
): Promise<void> {
  await answerWith(stream, log, 'the enrolment failed', async () =>
    enrolment.answer(await readBody(stream, longestEnrolment)),
  );
}

/** `POST /setup`: answered, with what has come of it, when all is done. */
export async function setUpMachine(
  setup: MachineSetupWork,
  log: Log,
  stream: ServerHttp2Stream,
): Promise<void> {
  await answerWith(stream, log, 'the machine could not be set up', async () =>
    setup.perform(decodeMachineSetup(await readBody(stream, longestSetup, 'utf8'))),
  );
}

/** JSON, or why there is none. @param failure for the log */
async function answerWith(
  stream: ServerHttp2Stream,
  log: Log,
  failure: string,
  work: () => Promise<object>,
): Promise<void> {
  try {
    const answer = await work();
    if (stream.destroyed) return;
    stream.respond({ ':status': 200, 'content-type': 'application/json' });
    stream.end(JSON.stringify(answer));
  } catch (error) {
    log.error({ reason: errorText(error) }, failure);
    if (stream.destroyed) return;
    stream.respond({ ':status': 500, 'content-type': 'text/plain' });
    stream.end(errorText(error));
  }
}

/** By events: an iterator costs an emulated machine more than what is read. */
function readBody(
  stream: ServerHttp2Stream,
  longest: number,
  encoding: 'latin1' | 'utf8' = 'latin1',
): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const add = (chunk: Buffer): void => {
      chunks.push(chunk);
      length += chunk.length;
      if (length <= longest) return;
      stream.off('data', add);
      reject(new Error('the message is too long'));
    };
    stream.on('data', add);
    stream.once('end', () => resolve(Buffer.concat(chunks).toString(encoding)));
    stream.once('close', () => reject(new Error('the message is cut off')));
  });
}

function text(header: string | string[] | undefined): string {
  return typeof header === 'string' ? decodeURIComponent(header) : '';
}
