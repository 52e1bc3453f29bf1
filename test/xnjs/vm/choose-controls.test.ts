import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { chooseControls } from '#xnjs/vm/resource-controls.js';
import { anImageMetadata } from './samples.js';

describe('the bandwidth of a card', () => {
  const metadata = anImageMetadata();
  const machine = { driver: 'qemu', metadata, cpus: 1, memoryMaxMiB: 96, network: 'nat' } as const;
  const choose = (value: number) => {
    const field = 'parameters.networkOutboundBytesPerSecond';
    return chooseControls({ networkOutboundBytesPerSecond: { value, field } }, {}, machine, {});
  };

  it('may be as much as libvirt has a number for, and no more', () => {
    const most = 4_294_967_295_000;
    assert.deepEqual(choose(most), { networkOutboundBytesPerSecond: most });
    assert.throws(() => choose(most + 1), { code: 'BAD_REQUEST', message: /is outside 4096-/ });
  });
});
