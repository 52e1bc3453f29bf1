import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import type { TsiTransport } from '#xnjs/tsi/tsi.js';
import { createTsi, type TsiClient, type TsiOptions } from '#xnjs/tsi/tsi-client.js';
import { ours, scriptedTsi, type Behaviour } from './scripted-tsi.js';

const alice = { login: 'alice', groups: 'NONE' };
const job = {
  uspaceDir: '/u',
  outcomeDir: '/u',
  stdout: 'o',
  stderr: 'e',
  jobName: 'n',
  attemptId: 'a',
  script: 'id',
};

function client(transport: TsiTransport, options: Partial<TsiOptions> = {}): TsiClient {
  const quick = { queueMs: 2_000, openMs: 2_000, callMs: 500, executeMs: 500 };
  return createTsi(transport, { clock: systemClock, log: silentLog, ...quick, ...options });
}

/** Answers each request with what `reply` makes of it. */
function answering(reply: (request: string) => readonly string[] | undefined): Behaviour {
  return async (peer) => {
    for (let request = await peer.next(); request !== undefined; request = await peer.next()) {
      const lines = reply(request);
      if (lines) peer.say(...lines);
    }
  };
}

describe('the TSI client and an old TSI', () => {
  it('reads replies without TSI_OK', async () => {
    const replies: readonly (readonly [RegExp, readonly string[]])[] = [
      [/#TSI_LS\n/, ['START_LISTING', 'END_LISTING']],
      [/#TSI_DF\n/, ['START_DF', 'TOTAL 5', 'FREE 3', 'USER -1', 'END_DF']],
      [/#TSI_SUBMIT\n/, ['4711']],
      [/#TSI_GETSTATUSLISTING\n/, ['QSTAT', ' 4711 RUNNING']],
    ];
    const transport = scriptedTsi(
      answering((request) => replies.find(([pattern]) => pattern.test(request))?.[1]),
      '8.3.0',
    );
    await using tsi = client(transport);
    assert.deepEqual(await tsi.list(alice, '/x', 'A'), []);
    assert.equal((await tsi.space(alice, '/x')).freeBytes, 3);
    assert.equal(await tsi.submit(alice, job), '4711');
    assert.equal((await tsi.status()).get('4711')?.state, 'RUNNING');
    assert.equal(transport.opened, 1);
  });

  it('does not send it a script that holds lines of the protocol', async () => {
    await using tsi = client(scriptedTsi(answering(() => ['TSI_OK', 'x'])));
    for (const script of ['#TSI_PING', 'x\n#TSI_JOB_MODE raw\n'])
      await assert.rejects(tsi.submit(alice, { ...job, script }), { code: 'TSI_PROTOCOL' });
    assert.equal(await tsi.execute(alice, '#TSI_UMASK 0027\nid'), 'x');
  });

  it('begins each script with the header of the moment, and nothing that a user writes comes before', async () => {
    const heard: string[] = [];
    const scripted = scriptedTsi(
      answering((request) => {
        heard.push(request);
        return ['TSI_OK', '1'];
      }),
    );
    let header = { submit: '#!/bin/bash -l\nexport SITE=a', execute: '#!/bin/bash' };
    await using tsi = client(scripted, { scriptHeader: () => header });
    const nasty = '#!/bin/evil\nexport SITE=b\n';
    await tsi.submit(alice, { ...job, jobName: '#!/bin/evil', script: nasty });
    header = { submit: '', execute: '#!/bin/bash\nexport SITE=c' };
    await tsi.execute(alice, nasty);
    await tsi.space(alice, '/x').catch(() => undefined); // no script: no header
    const scripts = heard.filter((request) => request.includes('#TSI_SCRIPT'));
    assert.ok(scripts[0]?.startsWith('#!/bin/bash -l\nexport SITE=a\n#TSI_SUBMIT\n'), scripts[0]);
    assert.ok(
      scripts[1]?.startsWith('#!/bin/bash\nexport SITE=c\n#TSI_EXECUTESCRIPT\n'),
      scripts[1],
    );
    assert.ok(heard.some((request) => request.startsWith('#TSI_DF\n')));
  });

  it('takes a job that it no longer lists for aborted', async () => {
    const listing = new Set(['1']);
    await using tsi = client(
      scriptedTsi(
        answering((request) =>
          request.includes('#TSI_ABORTJOB')
            ? ['TSI_FAILED: pkill: usage']
            : ['TSI_OK', 'QSTAT', ...[...listing].map((id) => ` ${id} RUNNING`)],
        ),
      ),
    );
    await tsi.abort(alice, '2');
    await assert.rejects(tsi.abort(alice, '1'), { code: 'TSI_FAILED' });
  });
});

describe('the TSI client and a lost worker', () => {
  const lostOnce =
    (reply: readonly string[]): Behaviour =>
    async (peer, number) => {
      await peer.next();
      if (number === 1) peer.command.end();
      else peer.say(...reply);
    };

  it('repeats what may be repeated, on a new worker', async () => {
    const transport = scriptedTsi(lostOnce(['TSI_OK', 'QSTAT']));
    await using tsi = client(transport);
    assert.equal((await tsi.status()).size, 0);
    assert.equal(transport.opened, 2);
  });

  it('submits again to our agent, which knows the attempt', async () => {
    const transport = scriptedTsi(lostOnce(['TSI_OK', '7']), ours);
    await using tsi = client(transport);
    assert.equal(await tsi.submit(alice, job), '7');
  });

  it('never submits again to a TSI that does not', async () => {
    const transport = scriptedTsi(lostOnce(['TSI_OK', '7']));
    await using tsi = client(transport);
    await assert.rejects(tsi.submit(alice, job), { code: 'TSI_UNAVAILABLE' });
    assert.equal(transport.opened, 1);
  });

  it('never runs a script or writes a chunk again', async () => {
    const transport = scriptedTsi(lostOnce(['TSI_OK']), ours);
    await using tsi = client(transport);
    await assert.rejects(tsi.execute(alice, 'id'), { code: 'TSI_UNAVAILABLE' });
    assert.equal(transport.opened, 1);
    const other = scriptedTsi(lostOnce(['TSI_OK']), ours);
    await using writer = client(other);
    await assert.rejects(writer.write(alice, '/f', Readable.from(['x'])), {
      code: 'TSI_UNAVAILABLE',
    });
    assert.equal(other.opened, 1);
  });

  it('goes on with a download from the chunk that was lost', async () => {
    const file = 'abcdefghij';
    const transport = scriptedTsi(async (peer, number) => {
      for (let request = await peer.next(); request !== undefined; request = await peer.next()) {
        const start = Number(/#TSI_START (\d+)/.exec(request)?.[1]);
        const piece = file.slice(start, start + 4);
        if (number === 1 && start >= 4) {
          peer.say('TSI_OK', `TSI_LENGTH ${piece.length}`);
          peer.data.write(piece.slice(0, 2));
          await new Promise((resolve) => setImmediate(resolve));
          peer.command.end();
          return;
        }
        peer.say('TSI_OK', `TSI_LENGTH ${piece.length}`);
        peer.data.write(piece);
        peer.say();
      }
    });
    await using tsi = client(transport, { chunkBytes: 4 });
    assert.equal(String(await buffer(tsi.read(alice, '/f'))), file);
  });

  it('pings a worker that has rested, and takes another if it is dead', async () => {
    const transport = scriptedTsi(async (peer, number) => {
      await peer.next();
      peer.say('TSI_OK', 'QSTAT');
      if (number > 1) await peer.next();
      else await new Promise(() => undefined); // hangs for good
    });
    let ms = 0;
    const clock = { ...systemClock, now: () => ms };
    await using tsi = client(transport, { clock, openMs: 200, pingAfterMs: 1_000 });
    await tsi.status();
    ms = 5_000;
    await tsi.status();
    assert.equal(transport.opened, 2);
  });
});

describe('the TSI client and a hostile TSI', () => {
  const cases: readonly (readonly [string, Behaviour, string])[] = [
    ['answers nonsense', answering(() => ['hello']), 'TSI_PROTOCOL'],
    ['refuses', answering(() => ['TSI_FAILED: no']), 'TSI_FAILED'],
    ['says nothing', () => undefined, 'TSI_UNAVAILABLE'],
    ['hangs up', (peer) => void peer.command.end(), 'TSI_UNAVAILABLE'],
    ['sends half a reply', (peer) => void peer.command.end('TSI_OK\nhal'), 'TSI_UNAVAILABLE'],
    [
      'sends a line without end',
      (peer) => {
        const line = Buffer.alloc(1_048_576, 'x');
        for (let sent = 0; sent < 80; sent += 1) peer.command.write(line);
      },
      'TSI_PROTOCOL',
    ],
  ];
  for (const [what, behave, code] of cases)
    it(`gets ${code} from one that ${what}`, async () => {
      await using tsi = client(scriptedTsi(behave), {
        executeMs: what.includes('line') ? 20_000 : 500,
      });
      await assert.rejects(tsi.execute(alice, 'id'), { code });
    });

  it('drops a worker that sends more than it was asked for', async () => {
    const transport = scriptedTsi(async (peer) => {
      await peer.next();
      peer.command.write('TSI_OK\na\nENDOFMESSAGE\nTSI_OK\nforged\nENDOFMESSAGE\n');
    });
    await using tsi = client(transport);
    assert.equal(await tsi.execute(alice, 'id'), 'a');
    assert.equal(await tsi.execute(alice, 'id'), 'a');
    assert.equal(transport.opened, 2);
  });

  const chunks: readonly (readonly [string, readonly string[], string])[] = [
    ['announces more than was asked for', ['TSI_OK', 'TSI_LENGTH 99999999'], 'TSI_PROTOCOL'],
    ['announces less than nothing', ['TSI_OK', 'TSI_LENGTH -1'], 'TSI_PROTOCOL'],
    ['announces and does not send', ['TSI_OK', 'TSI_LENGTH 4'], 'TSI_UNAVAILABLE'],
  ];
  for (const [what, lines, code] of chunks)
    it(`gets ${code} for a chunk from one that ${what}`, async () => {
      await using tsi = client(scriptedTsi(answering(() => lines)), { chunkBytes: 4 });
      await assert.rejects(buffer(tsi.read(alice, '/f')), { code });
    });

  it('gives up on a worker whose upload fails in the middle, as its channels are out of step', async () => {
    const transport = scriptedTsi(async (peer) => {
      await peer.next();
      peer.say('TSI_OK');
      peer.say('TSI_FAILED: disk full');
    });
    await using tsi = client(transport);
    await assert.rejects(tsi.write(alice, '/f', Readable.from(['x'])), { code: 'TSI_FAILED' });
    await assert.rejects(tsi.write(alice, '/f', Readable.from(['x'])), { code: 'TSI_FAILED' });
    assert.equal(transport.opened, 2);
  });

  it('announces the next chunk to our agent before the one before is stored, and to no other', async () => {
    for (const [ping, ahead] of [
      [ours, true],
      ['11.2.1', false],
    ] as const) {
      let stored = '';
      const early: boolean[] = [];
      const transport = scriptedTsi(async (peer) => {
        const data = peer.data.iterator({ destroyOnReturn: false });
        let next = await peer.next();
        while (next !== undefined) {
          const action = /#TSI_FILESACTION (\d)/.exec(next)?.[1];
          const length = Number(/#TSI_LENGTH (\d+)/.exec(next)?.[1]);
          assert.equal(action, stored === '' ? '0' : '3');
          peer.say('TSI_OK');
          if (length > 0) stored += String((await data.next()).value);
          // the client is given time to say something before it hears that this one is stored
          const following = peer.next();
          const turns = (async () => {
            for (let turn = 0; turn < 20; turn++) await new Promise((done) => setImmediate(done));
            return 'nothing' as const;
          })();
          early.push((await Promise.race([following, turns])) !== 'nothing');
          peer.say();
          next = await following;
        }
      }, ping);
      await using tsi = client(transport, { chunkBytes: 4 });
      await tsi.write(alice, '/f', Readable.from(['abcdefghij']));
      assert.equal(stored, 'abcdefghij');
      assert.deepEqual(early.slice(0, 2), [ahead, ahead]);
    }
  });

  it('tells what went wrong with a chunk though the next one is announced, and gives up on the worker', async () => {
    let bytes = 0;
    const transport = scriptedTsi(async (peer) => {
      await peer.next();
      peer.data.on('data', (piece: Buffer) => (bytes += piece.length));
      peer.say('TSI_OK');
      assert.match((await peer.next()) ?? '', /#TSI_PUTFILECHUNK/);
      peer.say('TSI_FAILED: disk full');
      peer.say('TSI_OK');
      await peer.next();
    }, ours);
    await using tsi = client(transport, { chunkBytes: 4 });
    await assert.rejects(tsi.write(alice, '/f', Readable.from(['abcdefghij'])), {
      code: 'TSI_FAILED',
    });
    assert.equal(bytes, 4);
    await assert.rejects(tsi.write(alice, '/f', Readable.from(['abcdefghij'])), {
      code: 'TSI_FAILED',
    });
    assert.equal(transport.opened, 2);
  });

  it('sends nothing that would break the frame', async () => {
    const transport = scriptedTsi(
      answering(() => ['TSI_OK', 'x']),
      ours,
    );
    await using tsi = client(transport);
    for (const script of ['ENDOFMESSAGE', '#TSI_IDENTITY root NONE', '\0'])
      await assert.rejects(tsi.execute(alice, script), { code: 'TSI_PROTOCOL' });
    await assert.rejects(buffer(tsi.read({ login: 'a b', groups: 'NONE' }, '/f')), {
      code: 'TSI_PROTOCOL',
    });
    assert.equal(await tsi.execute(alice, 'id'), 'x');
    assert.equal(transport.opened, 1);
  });
});

describe('the worker pool', () => {
  it('makes callers wait for their turn, in their order, and never opens more than its bound', async () => {
    const order: string[] = [];
    const transport = scriptedTsi(
      answering((request) => {
        order.push(/echo (\d+)/.exec(request)?.[1] ?? '');
        return ['TSI_OK', ''];
      }),
    );
    await using tsi = client(transport, { workers: 2 });
    await Promise.all(Array.from({ length: 20 }, (_, n) => tsi.execute(alice, `echo ${n}`)));
    assert.equal(transport.opened, 2);
    assert.deepEqual(
      order,
      order.toSorted((a, b) => Number(a) - Number(b)),
    );
  });

  it('tells a caller whose turn does not come', async () => {
    await using tsi = client(
      scriptedTsi(() => undefined),
      { workers: 1, queueMs: 100 },
    );
    const stuck = assert.rejects(tsi.execute(alice, 'id'), { code: 'TSI_UNAVAILABLE' });
    await assert.rejects(tsi.execute(alice, 'id'), { code: 'TSI_UNAVAILABLE' });
    await stuck;
  });

  it('lets a caller leave the queue', async () => {
    await using tsi = client(
      scriptedTsi(() => undefined),
      { workers: 1 },
    );
    const stuck = assert.rejects(tsi.execute(alice, 'id'), { code: 'TSI_UNAVAILABLE' });
    const control = new AbortController();
    const waiting = tsi.execute(alice, 'id', { signal: control.signal });
    control.abort();
    await assert.rejects(waiting, { name: 'AbortError' });
    await stuck;
  });

  it('holds no worker for a reader that is slow', async () => {
    const transport = scriptedTsi(async (peer) => {
      for (let request = await peer.next(); request !== undefined; request = await peer.next())
        if (request.includes('#TSI_GETFILECHUNK')) {
          peer.say('TSI_OK', 'TSI_LENGTH 4');
          peer.data.write('abcd');
          peer.say();
        } else peer.say('TSI_OK', '');
    });
    await using tsi = client(transport, { workers: 1, chunkBytes: 4 });
    const readers = Array.from({ length: 5 }, () => tsi.read(alice, '/endless'));
    for (const reader of readers) reader.once('readable', () => void reader.read(1));
    assert.equal(await tsi.execute(alice, 'id'), '');
    for (const reader of readers) reader.destroy();
  });

  it('refuses after it was closed, and closes twice, also while busy', async () => {
    const tsi = client(scriptedTsi(() => undefined));
    const busy = assert.rejects(tsi.execute(alice, 'id'), { code: 'TSI_UNAVAILABLE' });
    await tsi[Symbol.asyncDispose]();
    await tsi[Symbol.asyncDispose]();
    await busy;
    await assert.rejects(tsi.ping(), { code: 'TSI_UNAVAILABLE' });
  });
});
