import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { createTsi, type TsiClient } from '#xnjs/tsi/tsi-client.js';
import type { TsiTransport, WorkerChannels } from '#xnjs/tsi/tsi.js';
import { until } from '../../tsi/agent-process.js';
import { scriptedTsi, type Peer } from './scripted-tsi.js';

const alice = { login: 'alice', groups: 'NONE' };
const client = (transport: TsiTransport): TsiClient =>
  createTsi(transport, { clock: systemClock, log: silentLog, callMs: 300, chunkBytes: 4 });

/** The first worker stops in the middle of what `first` does; the others do what they should. */
function hangingOnce(first: (peer: Peer, request: string) => void) {
  const opened: WorkerChannels[] = [];
  const scripted = scriptedTsi(async (peer, number) => {
    for (let request = await peer.next(); request !== undefined; request = await peer.next()) {
      if (number === 1) first(peer, request);
      else serve(peer, request);
    }
  });
  const transport: TsiTransport = {
    name: 'hanging',
    open: async (signal) => {
      const channels = await scripted.open(signal);
      opened.push(channels);
      return channels;
    },
  };
  const dropped = (): boolean => opened[0]?.command.destroyed === true && opened[0].data.destroyed;
  return { transport, opened, dropped: () => until('the worker is dropped', dropped) };
}

function serve(peer: Peer, request: string): void {
  peer.say('TSI_OK', ...(request.includes('#TSI_GETFILECHUNK') ? ['TSI_LENGTH 3'] : []));
  if (request.includes('#TSI_GETFILECHUNK')) peer.data.write('abc');
  peer.say();
}

describe('a worker that hangs', () => {
  it('in a download is dropped by the deadline, and the chunk asked of another', async () => {
    const { transport, opened, dropped } = hangingOnce((peer) => {
      peer.say('TSI_OK', 'TSI_LENGTH 3');
      peer.data.write('ab');
    });
    await using tsi = client(transport);
    assert.equal(String(await buffer(tsi.read(alice, '/f'))), 'abc');
    assert.equal(opened.length, 2);
    await dropped();
  });

  const uploads: readonly (readonly [string, (peer: Peer) => void])[] = [
    ['before it takes the data', () => undefined],
    ['after it has taken the data', (peer) => peer.say('TSI_OK')],
  ];
  for (const [when, hang] of uploads)
    for (const append of [false, true])
      it(`${when} is dropped, and nothing is ${append ? 'appended' : 'written'} a second time`, async () => {
        const { transport, opened, dropped } = hangingOnce(hang);
        await using tsi = client(transport);
        const upload = tsi.write(alice, '/f', Readable.from(['abc']), { append });
        await assert.rejects(upload, { code: 'TSI_UNAVAILABLE' });
        assert.equal(opened.length, 1);
        await dropped();
        assert.equal(await tsi.write(alice, '/f', Readable.from(['abc'])), 3); // by another
        assert.equal(opened.length, 2);
      });

  it('gives its place in the pool to the next in the queue', async () => {
    const { transport } = hangingOnce(() => undefined);
    await using tsi = createTsi(transport, {
      clock: systemClock,
      log: silentLog,
      workers: 1,
      executeMs: 200,
      chunkBytes: 4,
    });
    const stuck = assert.rejects(tsi.execute(alice, 'sleep'), { code: 'TSI_UNAVAILABLE' });
    assert.equal(String(await buffer(tsi.read(alice, '/f'))), 'abc');
    await stuck;
  });
});
