import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { parseMessage, type Message } from '#tsi/protocol/message.js';
import { JobConfig } from '#xnjs/job/config.js';
import { createJobStore } from '#xnjs/persistence/job-store.js';
import { createTsi } from '#xnjs/tsi/tsi-client.js';
import {
  LocalTargets,
  newEngine,
  openStore,
  ownerDn,
  scratch,
  targetId,
  until,
} from '../xnjs/job/rig.js';
import { ours, scriptedTsi, type Peer } from '../xnjs/tsi/scripted-tsi.js';

const jobs = 40;
/** How many requests are answered by an attack, of each ten. */
const hostileOfTen = 4;
const seed = Number(process.env['FUZZ_SEED'] ?? 20_261_125);
const megabyte = 1024 * 1024;

/** Small and the same everywhere (mulberry32). */
function randomFrom(start: number): () => number {
  let state = start;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** A TSI that would do: each job is over after it was listed a few times. */
class Site {
  readonly submitted: string[] = [];
  readonly #ids = new Map<string, string>();
  readonly #listings = new Map<string, number>();

  answer({ words, header }: Message, peer: Peer): void {
    const path = header.get('TSI_FILE') ?? '';
    const entry = [`  RW O 2 1795177239 ${path}`, '--rw-r----- alice users'];
    const answers: Record<string, () => string[]> = {
      TSI_SUBMIT: () => [this.#submit(header.get('TSI_SUBMIT_ID') ?? 'none')],
      TSI_GETSTATUSLISTING: () => ['QSTAT', ...this.#list()],
      TSI_LS: () => ['START_LISTING', ...entry, 'END_LISTING'],
      TSI_PING: () => [ours],
      TSI_GETFILECHUNK: () => ['TSI_LENGTH 2'],
    };
    const [word = ''] = words;
    peer.say('TSI_OK', ...(answers[word]?.() ?? []));
    if (word !== 'TSI_GETFILECHUNK') return;
    peer.data.write('0\n');
    peer.command.write('ENDOFMESSAGE\n');
  }

  #submit(attemptId: string): string {
    this.submitted.push(attemptId);
    const id = this.#ids.get(attemptId) ?? String(1_000 + this.#ids.size);
    if (!this.#ids.has(attemptId)) this.#listings.set(id, 3);
    this.#ids.set(attemptId, id);
    return id;
  }

  #list(): string[] {
    return [...this.#listings].flatMap(([id, left]) => {
      if (left === 0) return [];
      this.#listings.set(id, left - 1);
      return [` ${id} RUNNING batch R`];
    });
  }
}

type Attack = (peer: Peer, random: () => number, message: Message) => void;

/** Until the other side has had enough. */
function endless(peer: Peer, piece: string): void {
  if (peer.command.destroyed) return;
  // as a socket would: what is read comes from the event loop
  const again = (): void => void setImmediate(() => endless(peer, piece));
  if (peer.command.write(piece)) again();
  else peer.command.once('drain', again);
}

const attacks: Record<string, Attack> = {
  'a line without end': (peer) => endless(peer, 'x'.repeat(65_536)),
  'lines without end': (peer) => endless(peer, 'TSI_OK\n'.repeat(8_000)),
  'half a message': (peer) => {
    peer.command.write('TSI_OK\nQSTAT\n 1000 RUNN');
    peer.command.destroy();
  },
  'binary data': (peer, random) => {
    const bytes = Buffer.from(Array.from({ length: 5_000 }, () => Math.floor(random() * 256)));
    peer.command.write(Buffer.concat([bytes, Buffer.from('\nENDOFMESSAGE\n')]));
  },
  'a wrong length': (peer, random) => {
    const lengths = ['-5', '99999999999999', '1e3', '', '4294967297', 'NaN', '2\nTSI_LENGTH 3'];
    peer.say('TSI_OK', `TSI_LENGTH ${lengths[Math.floor(random() * lengths.length)] ?? ''}`);
    peer.data.write('0\n');
    peer.command.write('ENDOFMESSAGE\n');
  },
  'more data than announced': (peer) => {
    peer.say('TSI_OK', 'TSI_LENGTH 2');
    peer.data.write('0\n'.repeat(50_000));
    peer.command.write('ENDOFMESSAGE\n');
  },
  'a listing of nonsense': (peer, random) => {
    const lines = [' 1000', ' 1000 DANCING q', '\0 RUNNING', '; rm -rf /', ' 1000 RUNNING\r'];
    peer.say('TSI_OK', 'QSTAT', lines[Math.floor(random() * lines.length)] ?? '');
  },
  'a listing of strangers': (peer) => {
    const lines = Array.from({ length: 20_000 }, (_, n) => ` 9${n} RUNNING other R`);
    peer.say('TSI_OK', 'QSTAT', ...lines);
  },
  'no id, or one that is none': (peer, random) => {
    const ids = ['', 'a b c', 'x'.repeat(300), '../../etc', '\u0000'];
    peer.say('TSI_OK', ids[Math.floor(random() * ids.length)] ?? '');
  },
  'a refusal, at length': (peer) => peer.say(`TSI_FAILED: ${'no '.repeat(100_000)}`),
  'two answers': (peer) => {
    peer.say('TSI_OK', '1');
    peer.say('TSI_OK', 'QSTAT', ' 1000 RUNNING q');
  },
  silence: () => undefined,
};
const kinds = Object.values(attacks);

describe('the job engine on a hostile TSI', { timeout: 120_000 }, () => {
  it(`loses no job, doubles none, and stays small (seed ${seed})`, async () => {
    await using scope = new Scope();
    const site = new Site();
    const random = randomFrom(seed);
    let hostile = true;
    const seen = new Set<Attack>();
    const transport = scriptedTsi(async (peer) => {
      peer.command.on('error', () => undefined);
      for (;;) {
        const wire = await peer.next();
        if (wire === undefined) return;
        const message = parseMessage(wire);
        const attack = kinds[Math.floor(random() * kinds.length)];
        if (hostile && attack && random() * 10 < hostileOfTen) {
          seen.add(attack);
          attack(peer, random, message);
        } else site.answer(message, peer);
      }
    }, ours);
    const timing = { callMs: 200, executeMs: 200, openMs: 200, pingAfterMs: 50 };
    const tsi = scope.use(createTsi(transport, { log: silentLog, clock: systemClock, ...timing }));
    const config = JobConfig.parse({
      ...{ statusIntervalMs: 10, statusMaxIntervalMs: 50 },
      ...{ retryFirstMs: 5, retryMaxMs: 20, refusedDelayMs: 1, refusedRetries: 8 },
    });
    const store = createJobStore(await openStore(scope, scratch(scope)));
    const targets = new LocalTargets(() => tsi, '/jobs');
    const engine = scope.use(newEngine({ store, targets, config }));
    await engine.attach();
    const before = process.memoryUsage().rss;
    let most = before;
    const watching = setInterval(() => (most = Math.max(most, process.memoryUsage().rss)), 50);
    scope.defer(() => clearInterval(watching));

    const submit = async () =>
      (await engine.submit({ ownerDn, targetId, description: { Executable: 'x' } })).id;
    const ids = await Promise.all(Array.from({ length: jobs }, submit));
    await until('every attack was made', () => seen.size === kinds.length, 60_000);
    const aborted = ids.slice(0, 5);
    for (const id of aborted) await engine.abort(id);
    hostile = false;
    for (const id of ids)
      await until(`${id} is over`, async () => (await engine.get(id)).state === 'DONE', 60_000);

    assert.equal((await engine.list({ offset: 0, num: 1 })).total, jobs);
    const attempts = new Set(site.submitted);
    const known = new Set(ids.map((id) => `${id}-1`));
    assert.deepEqual(
      [...attempts].filter((attempt) => !known.has(attempt)),
      [],
    );
    for (const id of ids) {
      const { log, run } = await engine.get(id);
      assert.ok(JSON.stringify(log).length < megabyte, 'a log that a TSI can fill');
      assert.ok((run.result?.message.length ?? 0) <= 4_000);
    }
    assert.ok(most - before < 300 * megabyte, `grew by ${(most - before) / megabyte} MiB`);
    // and it still works
    const late = await submit();
    await until('the next job', async () => (await engine.get(late)).state === 'DONE');
    assert.equal((await engine.get(late)).run.exitCode, 0);
  });
});
