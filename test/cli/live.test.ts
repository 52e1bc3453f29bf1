import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import { eventLine, EventParser } from '#cli/client/events.js';
import { parseForward } from '#cli/client/forward.js';
import { nodeFlags, program } from '../program.js';

describe('what vsite forward is asked for', () => {
  const cases = [
    ['8080:80', 8_080, 'port=80&host=localhost'],
    ['0:80', 0, 'port=80&host=localhost'],
    ['8080:node7:80', 8_080, 'port=80&host=node7'],
    ['8080:[::1]:80', 8_080, 'port=80&host=%5B%3A%3A1%5D'],
    ['8080:run/its.sock', 8_080, 'file=run%2Fits.sock'],
  ] as const;
  for (const [text, port, query] of cases)
    it(text, () => {
      const wish = parseForward(text);
      assert.deepEqual([wish.localPort, wish.query.toString()], [port, query]);
    });
  for (const text of ['80', 'x:80', '80:', '70000:80'])
    it(`${text} makes no sense`, () => {
      assert.throws(() => parseForward(text), { code: 'BAD_REQUEST' });
    });
});

describe('a stream of events', () => {
  it('is taken apart wherever it is cut', () => {
    const text =
      'retry: 2000\nid: 7\n\nid: 8\nevent: job\ndata: {"type":"job","id":"j","status":"RUNNING"}\n\n' +
      ': heart-beat\nid: 9\n\nevent: end\ndata: {"reason":"closing"}\n\n';
    for (const size of [1, 7, 1_000]) {
      const parser = new EventParser();
      const events = [];
      for (let at = 0; at < text.length; at += size)
        events.push(...parser.push(text.slice(at, at + size)));
      assert.deepEqual(
        events.map(({ id, event }) => [id, event]),
        [
          ['8', 'job'],
          ['9', 'end'],
        ],
      );
      assert.deepEqual([parser.lastId, parser.retryMs], ['9', 2_000]);
    }
  });

  it('without an end is given up', () => {
    assert.throws(() => new EventParser().push('x'.repeat(2_000_000)), { code: 'PEER_FAILED' });
  });

  it('is a line for people', () => {
    const data = {
      type: 'site',
      id: 's',
      time: 't',
      state: 'FAILED',
      evidence: { fact: 'crashed' },
    };
    assert.equal(eventLine({ id: '1', event: 'site', data }), 't  site   s  FAILED  crashed');
  });
});

describe('completion', () => {
  const main = program('cli/main.ts');
  const vsite = async (...args: string[]) =>
    (await promisify(execFile)(process.execPath, [...[...nodeFlags, main, ...args]])).stdout;

  it('knows commands and options, and is a script that bash can read', async () => {
    assert.match(await vsite('complete', '--', 'job', 'w'), /^wait\t/m);
    assert.match(await vsite('complete', '--', 'events', '--'), /^--types\t/m);
    const script = await vsite('completion', 'bash');
    await promisify(execFile)('bash', ['-n', '-c', script]);
    assert.match(script, /complete .*vsite/);
  });
});
