import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import type { EnrolmentAnswer, EnrolmentAsk } from '#tsi/protocol/enrolment.js';
import { encodeGreetingAnswer } from '#tsi/protocol/greeting.js';
import { AgentLink } from '#xnjs/tsi/agent-link.js';
import { dialUnix, scratch, startAgent, until } from '../../tsi/agent-process.js';

const token = 't'.repeat(43);
const newQuestion = (): EnrolmentAsk => ({
  machine: '11111111-2222-4333-8444-555555555555.1',
  challenge: randomBytes(32).toString('base64'),
  expects: createHash('sha256').update(token).digest('hex'),
  token,
});

type Proof = { readonly isGreeted: boolean; readonly answer: EnrolmentAnswer | undefined };

/** A link that greets, and notes how it was answered. */
function greeting(scope: Scope, socket: string): { link: AgentLink; proofs: Proof[] } {
  const proofs: Proof[] = [];
  const link = scope.use(
    new AgentLink({
      ...{ name: 'greeted', heartbeatMs: 1_000, clock: systemClock, log: silentLog },
      dial: () => dialUnix(socket),
      greet: () => ({ enrolment: newQuestion() }),
      admit: async (ask, asked) => {
        proofs.push({ isGreeted: asked !== undefined, answer: await ask(asked ?? newQuestion()) });
      },
    }),
  );
  return { link, proofs };
}

/** What passes on to the agent what `meddle` makes of the first chunk; it may answer itself. */
function between(
  scope: Scope,
  agent: string,
  meddle: (first: Buffer, client: Socket) => Buffer | undefined,
): string {
  const path = join(scratch(scope), 'between.sock');
  const server = createServer((client) => {
    client.on('error', () => undefined);
    scope.defer(() => void client.destroy());
    client.once('data', (first) => {
      const changed = meddle(first, client);
      if (changed === undefined) return;
      void dialUnix(agent).then((upstream) => {
        upstream.on('error', () => undefined);
        upstream.write(changed);
        client.pipe(upstream).pipe(client);
        client.on('close', () => upstream.destroy());
      });
    });
  }).listen(path);
  scope.defer(() => void server.close());
  return path;
}

const afterLine = (bytes: Buffer): Buffer => bytes.subarray(bytes.indexOf('\n') + 1);

describe('an agent that is greeted', () => {
  it('proves itself before HTTP/2, once: the next time it is asked anew', async () => {
    await using scope = new Scope();
    const { socket } = await startAgent(scope);
    const { link, proofs } = greeting(scope, socket);
    await until('it is up', () => link.state === 'up');
    assert.equal(proofs[0]?.isGreeted, true);
    assert.equal(proofs[0].answer?.token, token);
    assert.match(proofs[0].answer.request ?? '', /^-----BEGIN CERTIFICATE REQUEST-----/);
    assert.equal(link.isAnother, false);
    await link.prove();
    assert.equal(proofs[1]?.isGreeted, false);
    // of the same key, and a signature of the new question
    assert.ok(proofs[1].answer?.signature !== undefined);
  });

  it('is asked by a request where it does not know greetings', async () => {
    await using scope = new Scope();
    const { socket } = await startAgent(scope);
    const lines: string[] = [];
    const path = between(scope, socket, (first) => {
      lines.push(first.toString('latin1'));
      return afterLine(first);
    });
    const { link, proofs } = greeting(scope, path);
    await until('it is up', () => link.state === 'up');
    assert.match(lines[0] ?? '', /^VSITE-GREETING \{.*\}\nPRI \* HTTP\/2\.0\r\n/);
    assert.equal(proofs[0]?.answer?.token, token);
  });

  it('is called again where an earlier answer lies in the channel', async () => {
    await using scope = new Scope();
    const { socket } = await startAgent(scope);
    let calls = 0;
    const path = between(scope, socket, (first, client) => {
      calls += 1;
      if (calls > 1) return first;
      const nonce = randomBytes(32).toString('base64');
      const stale = encodeGreetingAnswer({ nonce, isAnother: true, enrolment: { token } });
      client.write(Buffer.concat([Buffer.from(stale), Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])]));
      return undefined;
    });
    const { link, proofs } = greeting(scope, path);
    await until('it is up', () => link.state === 'up');
    assert.equal(calls, 2);
    assert.equal(proofs.length, 1);
    assert.equal(link.isAnother, false);
  });
});
