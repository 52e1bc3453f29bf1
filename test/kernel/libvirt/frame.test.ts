import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { encodeHeader, FrameReader, type Header, type Message } from '#kernel/libvirt/frame.js';

const header = { program: 0x20008086, procedure: 318, type: 2, serial: 7, status: 1 };
const wire = Buffer.from(
  '00000020' + '20008086' + '00000001' + '0000013e' + '00000002' + '00000007' + '00000001abcdef01',
  'hex',
);
const payload = Buffer.from('abcdef01', 'hex');
const protocol = { code: 'HYPERVISOR_PROTOCOL' };

const frame = (head: Header, body: Buffer): Buffer =>
  Buffer.concat([encodeHeader(head, body.length), body]);

/** A copy of what the reader hands out as views. */
const kept = (messages: Message[]) =>
  messages.map((message) => ({ ...message, payload: Buffer.from(message.payload) }));

describe('frames', () => {
  it('writes length, program, version, procedure, type, serial and status', () => {
    assert.deepEqual(frame(header, payload), wire);
  });

  it('reads them back', () => {
    assert.deepEqual(kept(new FrameReader().push(wire)), [{ ...header, payload }]);
  });

  it('reads one byte at a time', () => {
    const reader = new FrameReader();
    const messages = [...wire, ...wire].flatMap((byte) => kept(reader.push(Buffer.from([byte]))));
    assert.deepEqual(messages, [
      { ...header, payload },
      { ...header, payload },
    ]);
  });

  it('reads any messages, however they are cut', () => {
    const uint = fc.nat({ max: 0xffffffff });
    const message = fc.record({
      program: uint,
      procedure: uint,
      type: uint,
      serial: uint,
      status: uint,
      payload: fc.uint8Array({ maxLength: 9000, size: 'max' }).map((part) => Buffer.from(part)),
    });
    const cuts = fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1 });
    const property = fc.property(fc.array(message, { maxLength: 5 }), cuts, (messages, sizes) => {
      const reader = new FrameReader();
      let rest = Buffer.concat(messages.map((one) => frame(one, one.payload)));
      const read: Message[] = [];
      for (let turn = 0; rest.length > 0; turn++) {
        const size = sizes[turn % sizes.length]!;
        read.push(...kept(reader.push(rest.subarray(0, size))));
        rest = rest.subarray(size);
      }
      assert.deepEqual(
        read,
        messages.map((one) => ({ ...one })),
      );
    });
    fc.assert(property, { numRuns: 50 });
  });

  for (const [length, title] of [
    [0, 'none'],
    [27, 'less than a header'],
    [32 * 1024 * 1024 + 5, 'over 32 MiB + 4'],
    [0xffffffff, 'the largest'],
  ] as const)
    it(`refuses a length of ${length} (${title}), whole or in pieces`, () => {
      const bytes = Buffer.alloc(28);
      bytes.writeUInt32BE(length);
      assert.throws(() => new FrameReader().push(bytes), protocol);
      const reader = new FrameReader();
      assert.deepEqual(reader.push(bytes.subarray(0, 3)), []);
      assert.throws(() => reader.push(bytes.subarray(3)), protocol);
    });

  it('takes the longest frame', () => {
    const body = Buffer.alloc(32 * 1024 * 1024 + 4 - 28, 1);
    const reader = new FrameReader();
    const bytes = frame(header, body);
    assert.deepEqual(reader.push(bytes.subarray(0, 1000)), []);
    const [message] = reader.push(bytes.subarray(1000));
    assert.ok(message?.payload.equals(body));
  });

  it('refuses a version it does not know', () => {
    const bytes = Buffer.from(wire);
    bytes.writeUInt32BE(2, 8);
    assert.throws(() => new FrameReader().push(bytes), protocol);
  });

  it('does not reserve the length that a peer claims', () => {
    const before = process.memoryUsage().arrayBuffers;
    const readers = Array.from({ length: 100 }, () => new FrameReader());
    const start = Buffer.alloc(8);
    start.writeUInt32BE(32 * 1024 * 1024);
    for (const reader of readers) reader.push(start);
    assert.ok(process.memoryUsage().arrayBuffers - before < 8 * 1024 * 1024);
  });
});
