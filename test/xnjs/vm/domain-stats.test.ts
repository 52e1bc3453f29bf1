import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Domain, TypedParams } from '#kernel/libvirt/procedures.js';
import { toSample } from '#xnjs/vm/domain-stats.js';

const dom: Domain = { name: 'vsite-x', uuid: '5b3f0c1e-8d52-4a94-9a50-0f0e3a1f2b3c', id: 3 };
const figure = (field: string, value: number): TypedParams[number] => ({
  field,
  value: { type: 4, value: BigInt(value) },
});
const atOnce = [
  figure('cpu.time', 2_000_000_000),
  figure('balloon.current', 393_216),
  figure('net.count', 1),
  figure('net.0.rx.bytes', 10),
  figure('net.0.tx.bytes', 20),
];

describe('what libvirt tells of a machine', () => {
  it('sums up its devices', () => {
    const sample = toSample(dom, [
      ...atOnce,
      figure('balloon.rss', 204_800),
      figure('block.count', 2),
      ...[figure('block.0.rd.bytes', 100), figure('block.0.wr.bytes', 1)],
      ...[figure('block.1.rd.bytes', 200), figure('block.1.wr.bytes', 2)],
    ]);
    assert.deepEqual(sample, {
      ...{ id: dom.uuid, run: 3, residentMiB: 200, givenMiB: 384 },
      counters: {
        ...{ cpuMs: 2_000, diskReadBytes: 300, diskWrittenBytes: 3 },
        ...{ networkReceivedBytes: 10, networkSentBytes: 20 },
      },
    });
  });

  it('is no reading where its monitor was busy: disks without figures have not read nothing', () => {
    assert.equal(toSample(dom, [...atOnce, figure('block.count', 1)]), undefined);
  });

  it('is one of a machine that has no disks', () => {
    assert.equal(toSample(dom, [...atOnce, figure('block.count', 0)])?.counters.cpuMs, 2_000);
  });
});
