import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { ExitStream } from '#xnjs/tsi/exit-stream.js';
import {
  encodeFrame,
  encodeSettings,
  encodeWindowUpdate,
  FrameScanner,
  frameTypes,
} from '#xnjs/tsi/http2-frames.js';
import { answered, text } from '#xnjs/tsi/link-answers.js';
import { LinkConnection } from '#xnjs/tsi/link-connection.js';
import { createTsi } from '#xnjs/tsi/tsi-client.js';
import type { TsiTransport } from '#xnjs/tsi/tsi.js';
import { alice, dialUnix, nobodyId, scratch, startAgent, until } from '../../tsi/agent-process.js';

const settings = encodeSettings([[4, 1_048_576]]);
const restMs = 5;

/** A connection whose other end is the test. */
async function toTest(scope: Scope): Promise<{ connection: LinkConnection; agent: Socket }> {
  const path = join(scratch(scope), 'link.sock');
  const server = createServer().listen(path);
  scope.defer(() => void server.close());
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const connection = new LinkConnection(await dialUnix(path), restMs);
  scope.defer(() => connection.destroy());
  const [agent] = await accepted;
  agent.on('error', () => undefined);
  scope.defer(() => void agent.destroy());
  return { connection, agent };
}

async function toAgent(scope: Scope): Promise<LinkConnection> {
  const agent = await startAgent(scope);
  const connection = new LinkConnection(await dialUnix(agent.socket), restMs);
  scope.defer(() => connection.destroy());
  await connection.settled();
  return connection;
}

/** Workers on it, which end as soon as they rest. */
function transportOf(connection: LinkConnection): TsiTransport {
  return {
    name: 'test',
    forward: () => Promise.reject(new Error('not here')),
    open: async () => {
      const id = randomUUID();
      const [command, data] = ['command', 'data'].map((half) =>
        connection.request({ ':method': 'POST', ':path': `/worker/${id}/${half}` }),
      );
      assert.ok(command && data);
      await Promise.all([answered(command), answered(data)]);
      return { command, data };
    },
  };
}

async function facts(connection: LinkConnection): Promise<unknown> {
  const stream = connection.request({ ':path': '/facts' }, { endStream: true });
  await answered(stream);
  return JSON.parse(await text(stream)) as unknown;
}

describe('a connection to an agent', () => {
  it('has no session but while something is asked, and asks each time anew', async () => {
    await using scope = new Scope();
    const connection = await toAgent(scope);
    assert.equal(connection.isResting, true);
    // a window that each session made larger would be too large by then
    for (let round = 0; round < 140; round += 1) {
      const [first, second] = await Promise.all([facts(connection), facts(connection)]);
      assert.deepEqual(Object.keys(first as object), Object.keys(second as object));
      assert.equal(connection.isResting, false);
      await until('it rests', () => connection.isResting);
    }
  });

  it('carries more in many sessions than the windows of one connection hold', async () => {
    await using scope = new Scope();
    const connection = await toAgent(scope);
    const options = { clock: systemClock, log: silentLog, restMs: 1 };
    const tsi = scope.use(createTsi(transportOf(connection), options));
    const file = join(scratch(scope, nobodyId), 'file');
    for (let round = 0; round < 6; round += 1) {
      const content = randomBytes(3_000_000 + round);
      await tsi.write(alice, file, Readable.from([content]));
      assert.ok(content.equals(await buffer(tsi.read(alice, file))));
      await until('it rests', () => connection.isResting);
    }
    assert.equal(connection.isOver, false);
  });

  it('asks while it rests and in the middle of an upload, and is answered', async () => {
    await using scope = new Scope();
    const connection = await toAgent(scope);
    let answers = 0;
    const asked = async (): Promise<void> => {
      const before = answers;
      connection.ask();
      await until('it is answered', () => answers > before);
    };
    connection.onAnswer = () => (answers += 1);
    await asked();
    const options = { clock: systemClock, log: silentLog, restMs: 1 };
    const tsi = scope.use(createTsi(transportOf(connection), options));
    const content = Buffer.alloc(30_000_000, 'x');
    const file = join(scratch(scope, nobodyId), 'file');
    let isWritten = false;
    const written = tsi.write(alice, file, Readable.from([content])).then((size) => {
      isWritten = true;
      return size;
    });
    const unwritten = (): boolean => !isWritten;
    while (unwritten()) await asked();
    assert.equal(await written, content.length);
    assert.ok(answers > 2);
  });

  it('rests once nobody wants to know which jobs have ended, and asks again for whoever does', async () => {
    await using scope = new Scope();
    const connection = await toAgent(scope);
    const exits = new ExitStream(systemClock, silentLog);
    for (let round = 0; round < 3; round += 1) {
      const stops = [1, 2].map(() => exits.add(() => undefined));
      exits.follow(connection);
      assert.equal(connection.isResting, false);
      stops[0]?.();
      exits.follow(connection); // it is already
      stops[1]?.();
      await until('it rests', () => connection.isResting);
    }
    exits.add(() => undefined)();
    exits.follow(connection);
    assert.equal(connection.isResting, true);
  });

  it('answers what the agent asks, while it rests', async () => {
    await using scope = new Scope();
    const { connection, agent } = await toTest(scope);
    const heard: Buffer[] = [];
    agent.on('data', (chunk: Buffer) => heard.push(chunk));
    agent.write(settings);
    await connection.settled();
    const question = Buffer.from('question');
    for (const byte of encodeFrame(frameTypes.ping, 0, question)) agent.write(Buffer.of(byte));
    const answer = encodeFrame(frameTypes.ping, 1, question);
    await until('it answers', () => Buffer.concat(heard).includes(answer));
    assert.equal(connection.isResting, true);
  });

  const wrong: readonly (readonly [string, Buffer])[] = [
    ['a frame that is longer than agreed', Buffer.from([0, 64, 1, 0, 0, 0, 0, 0, 1])],
    ['a heartbeat of seven bytes', encodeFrame(frameTypes.ping, 0, Buffer.alloc(7))],
    ['an answer that nobody has asked for', encodeFrame(frameTypes.ping, 1, Buffer.alloc(8))],
    ['settings of five bytes', encodeFrame(frameTypes.settings, 0, Buffer.alloc(5))],
    ['settings without an end', Buffer.concat(Array.from({ length: 31 }, () => settings))],
    ['a stream that nobody has begun', encodeFrame(frameTypes.headers, 4, Buffer.alloc(9), 1)],
    ['a stream of its own', encodeFrame(frameTypes.data, 0, Buffer.alloc(9), 2)],
    ['a window that grows by nothing', encodeFrame(frameTypes.windowUpdate, 0, Buffer.alloc(4))],
    [
      'a window that grows beyond all bounds',
      encodeFrame(frameTypes.windowUpdate, 0, Buffer.from([127, 255, 255, 255])),
    ],
    ['a word of why that is long', encodeFrame(frameTypes.goaway, 0, Buffer.alloc(500))],
  ];
  for (const [what, bytes] of wrong)
    it(`ends when the agent sends ${what}`, async () => {
      await using scope = new Scope();
      const { connection, agent } = await toTest(scope);
      agent.write(settings);
      await connection.settled();
      agent.write(bytes);
      const reason = await connection.ended;
      assert.equal((reason as { code?: string } | undefined)?.code, 'TSI_PROTOCOL');
      assert.throws(() => connection.request({ ':path': '/facts' }), /closed/);
    });

  it('ends when the agent does not read what it is asked', async () => {
    await using scope = new Scope();
    const { connection, agent } = await toTest(scope);
    agent.pause();
    agent.write(settings);
    await connection.settled();
    while (!connection.isOver) {
      for (let i = 0; i < 1_000; i += 1) connection.ask();
      await new Promise(setImmediate);
    }
    assert.match(String(await connection.ended), /does not read/);
  });

  const floods: readonly (readonly [string, Buffer])[] = [
    ['heartbeats', encodeFrame(frameTypes.ping, 0, Buffer.alloc(8))],
    ['settings that say nothing', encodeFrame(frameTypes.settings, 0, Buffer.alloc(0))],
    ['answers to settings', encodeFrame(frameTypes.settings, 1, Buffer.alloc(0))],
    ['windows that grow a little', encodeWindowUpdate(1)],
    ['frames of a kind that nobody knows', encodeFrame(200, 0, Buffer.alloc(0))],
  ];
  for (const [what, frame] of floods)
    for (const isLent of [false, true])
      it(`ends when the agent sends ${what} without an end, ${isLent ? 'while a session is lent' : 'while it rests'}`, async () => {
        await using scope = new Scope();
        const { connection, agent } = await toTest(scope);
        agent.resume(); // it reads what it is answered
        agent.write(settings);
        await connection.settled();
        if (isLent) connection.request({ ':path': '/facts' }).on('error', () => undefined);
        assert.equal(connection.isResting, !isLent);
        const burst = Buffer.concat(Array.from({ length: 50 }, () => frame));
        const endMs = performance.now() + 5_000;
        while (!connection.isOver && performance.now() < endMs) {
          if (!agent.writableNeedDrain) agent.write(burst);
          await new Promise(setImmediate);
        }
        assert.equal(connection.isOver, true);
        assert.match(String(await connection.ended), /unasked/);
      });

  it('answers an agent that asks now and then, however long', async () => {
    await using scope = new Scope();
    const { connection, agent } = await toTest(scope);
    const question = encodeFrame(frameTypes.ping, 0, Buffer.from('question'));
    const answer = encodeFrame(frameTypes.ping, 1, Buffer.from('question'));
    let heard: Buffer = Buffer.alloc(0);
    agent.on('data', (chunk: Buffer) => (heard = Buffer.concat([heard, chunk])));
    agent.write(settings);
    await connection.settled();
    for (const isLast of [false, true]) {
      heard = Buffer.alloc(0);
      agent.write(Buffer.concat(Array.from({ length: 80 }, () => question)));
      await until('all are answered', () => heard.length >= 80 * answer.length);
      const answeredMs = performance.now();
      await until('the second is over', () => isLast || performance.now() - answeredMs > 1_000);
    }
    assert.equal(connection.isOver, false);
  });

  it('has nothing but an end for noise', async () => {
    await using scope = new Scope();
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 9, maxLength: 200 }), async (noise) => {
        const { connection, agent } = await toTest(scope);
        agent.end(noise);
        await assert.rejects(connection.settled());
      }),
      { numRuns: 30 },
    );
  });
});

describe('frames', () => {
  const frame = fc.record({
    type: fc.integer({ min: 0, max: 9 }),
    flags: fc.constant(0),
    stream: fc.integer({ min: 1, max: 2 ** 31 - 1 }),
    payload: fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
  });

  it('are found in whatever pieces they come; those that are passed on are the same bytes', () => {
    fc.assert(
      fc.property(fc.array(frame), fc.array(fc.integer({ min: 1, max: 30 })), (frames, cuts) => {
        const treatmentOf = (type: number) => (['whole', 'pass', 'drop'] as const)[type % 3];
        // lengths of these are checked
        const fair = frames.filter(({ type }) => ![4, 6, 8].includes(type));
        const encoded = fair.map(({ type, flags, payload, stream }) =>
          encodeFrame(type, flags, payload, stream),
        );
        const bytes = Buffer.concat(encoded);
        const scanner = new FrameScanner(({ type }) => treatmentOf(type) ?? 'drop');
        const passed: Buffer[] = [];
        const whole: Buffer[] = [];
        let at = 0;
        for (const cut of [...cuts, bytes.length]) {
          for (const part of scanner.push(bytes.subarray(at, at + cut)))
            if (Buffer.isBuffer(part)) passed.push(part);
            else whole.push(encodeFrame(part.type, part.flags, part.payload, part.stream));
          at += cut;
        }
        assert.ok(scanner.isBetween);
        const of = (treatment: string) =>
          Buffer.concat(encoded.filter((_, i) => treatmentOf(fair[i]?.type ?? 0) === treatment));
        assert.deepEqual(Buffer.concat(passed), of('pass'));
        assert.deepEqual(Buffer.concat(whole), of('whole'));
      }),
    );
  });
});
