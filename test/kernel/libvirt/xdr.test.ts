import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { inspect } from 'node:util';
import fc from 'fast-check';
import { decodeError } from '#kernel/libvirt/calls.js';
import { decodeEvent, toLifecycle } from '#kernel/libvirt/events.js';
import { errorMessage, procedures, typedParams } from '#kernel/libvirt/procedures.js';
import { uuid as uuidCodec } from '#kernel/libvirt/uuid.js';
import * as xdr from '#kernel/libvirt/xdr.js';
import type { Codec } from '#kernel/libvirt/xdr.js';

const uuid = '00112233-4455-6677-8899-aabbccddeeff';
const dom = { name: 'vm', uuid, id: -1 };
const domBytes = '00000002 766d0000 00112233445566778899aabbccddeeff ffffffff';
const protocol = { code: 'HYPERVISOR_PROTOCOL' };

const bytes = (hex: string): Buffer => Buffer.from(hex.replaceAll(' ', ''), 'hex');
const hexOf = (text: string, size: number): string =>
  Buffer.from(text)
    .toString('hex')
    .padEnd(size * 2, '0');

/** Each row erases its type: the table is about bytes. */
const vector = <T>(title: string, codec: Codec<T>, value: T, wire: string) => ({
  title,
  wire: bytes(wire),
  encoded: () => xdr.encode(codec, value),
  decode: (input: Buffer) => xdr.decode(codec, input),
  value,
});

const stats = [
  { field: 'state', value: { type: 1 as const, value: -2 } },
  { field: 'cpu', value: { type: 4 as const, value: 2n ** 64n - 1n } },
  { field: 'idle', value: { type: 5 as const, value: 0.5 } },
  { field: 'on', value: { type: 6 as const, value: true } },
  { field: 'name', value: { type: 7 as const, value: 'vda' } },
];

const vectors = [
  vector('a negative int', xdr.int, -2, 'fffffffe'),
  vector('the largest uint', xdr.uint, 0xffffffff, 'ffffffff'),
  vector('the smallest hyper', xdr.hyper, -(2n ** 63n), '8000000000000000'),
  vector('the largest uhyper', xdr.uhyper, 2n ** 64n - 1n, 'ffffffffffffffff'),
  vector('a text and its padding', xdr.string(), 'grüße', `00000007 ${hexOf('grüße', 8)}`),
  vector('a text without padding', xdr.string(), 'four', '00000004 666f7572'),
  vector('an empty text', xdr.string(), '', '00000000'),
  vector('an optional that is there', xdr.optional(xdr.int), 7, '00000001 00000007'),
  vector('an optional that is not', xdr.optional(xdr.int), null, '00000000'),
  vector(
    'a UUID in capitals',
    { ...uuidCodec, write: (to, value) => uuidCodec.write(to, value.toUpperCase()) },
    uuid,
    '00112233445566778899aabbccddeeff',
  ),
  vector('an array', xdr.array(xdr.uint, 9), [1, 2], '00000002 00000001 00000002'),
  vector('opaque bytes', xdr.opaque(5), Buffer.from('abcde'), '6162636465 000000'),
  vector('char[4]', xdr.chars(4), 'hi', '00000068 00000069 00000000 00000000'),
  vector(
    'a call: domain_get_state',
    procedures.domain_get_state.args,
    { dom, flags: 0 },
    `${domBytes} 00000000`,
  ),
  vector(
    'a reply: connect_list_all_domains',
    procedures.connect_list_all_domains.result,
    { domains: [dom], ret: 1 },
    `00000001 ${domBytes} 00000001`,
  ),
  vector(
    'typed parameters',
    typedParams,
    stats,
    `00000005
     00000005 ${hexOf('state', 8)} 00000001 fffffffe
     00000003 ${hexOf('cpu', 4)} 00000004 ffffffffffffffff
     00000004 ${hexOf('idle', 4)} 00000005 3fe0000000000000
     00000002 ${hexOf('on', 4)} 00000006 00000001
     00000004 ${hexOf('name', 4)} 00000007 00000003 ${hexOf('vda', 4)}`.replace(/\s+/g, ''),
  ),
];

describe('XDR', () => {
  for (const { title, wire, encoded, decode, value } of vectors) {
    it(`writes and reads ${title}`, () => {
      assert.deepEqual(encoded(), wire);
      assert.deepEqual(decode(wire), value);
    });
    it(`refuses ${title} when it is truncated or too long`, () => {
      for (let length = 0; length < wire.length; length++)
        assert.throws(() => decode(wire.subarray(0, length)), protocol);
      assert.throws(() => decode(Buffer.concat([wire, Buffer.alloc(4)])), protocol);
    });
  }

  it('reads what it wrote, whatever the values', () => {
    const codec = xdr.struct({
      name: xdr.optional(xdr.string()),
      ids: xdr.array(xdr.struct({ at: xdr.hyper, on: xdr.bool, part: xdr.double }), 20),
      tail: xdr.opaque(3),
    });
    const text = fc.string({ unit: 'grapheme' }).filter((value) => !value.includes('\0'));
    const plain = { noNullPrototype: true };
    const fields = {
      at: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
      on: fc.boolean(),
      part: fc.double(),
    };
    const tail = fc.uint8Array({ minLength: 3, maxLength: 3 }).map((part) => Buffer.from(part));
    const ids = fc.array(fc.record(fields, plain), { maxLength: 20 });
    const value = fc.record({ name: fc.option(text), ids, tail }, plain);
    fc.assert(
      fc.property(value, (original) => {
        const read = xdr.decode(codec, xdr.encode(codec, original));
        assert.equal(inspect(read, { depth: 9 }), inspect(original, { depth: 9 }));
      }),
    );
  });

  it('ends at nothing but a protocol error, whatever the bytes', () => {
    const readers = [
      (input: Buffer) => xdr.decode(errorMessage, input),
      (input: Buffer) => xdr.decode(typedParams, input),
      (input: Buffer) => decodeEvent(322, input),
    ];
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (input) => {
        for (const read of readers)
          try {
            read(Buffer.from(input));
          } catch (error) {
            assert.equal((error as { code: string }).code, 'HYPERVISOR_PROTOCOL');
          }
      }),
    );
  });

  it('reads names that come again and again as what they are, whatever comes between', () => {
    const names = [
      ...Array.from({ length: 3_000 }, (_, n) => `vcpu.${n}.time`),
      ...['grüße', 'gr\u00c3\u00bc', 'long.'.repeat(40), ''],
    ];
    const params = [...names, ...names].map((field) => ({
      field,
      value: { type: 1 as const, value: 1 },
    }));
    for (const all of [params, params.toReversed()])
      assert.deepEqual(xdr.decode(typedParams, xdr.encode(typedParams, all)), all);
  });

  it('refuses lengths over the limit, in both directions, before it looks for the bytes', () => {
    assert.throws(() => xdr.encode(xdr.string(3), 'four'), protocol);
    assert.throws(() => xdr.decode(xdr.string(3), bytes('00000004 666f7572')), protocol);
    assert.throws(() => xdr.decode(xdr.string(), bytes('ffffffff')), protocol);
    assert.throws(() => xdr.encode(xdr.array(xdr.int, 1), [1, 2]), protocol);
    assert.throws(() => xdr.decode(xdr.array(xdr.int, 1), bytes('00000002')), protocol);
    assert.throws(() => xdr.encode(xdr.opaque(2), Buffer.alloc(3)), protocol);
    assert.throws(() => xdr.encode(xdr.chars(2), 'abc'), protocol);
  });

  it('refuses a message that no frame could hold', () => {
    const text = 'x'.repeat(4 * 1024 * 1024);
    const codec = xdr.array(xdr.string(), 9);
    assert.throws(() => xdr.encode(codec, Array<string>(9).fill(text)), protocol);
  });

  it('refuses a NUL in a text, a broken UUID and an unknown case of a union', () => {
    const { args } = procedures.domain_lookup_by_name;
    assert.throws(() => xdr.encode(args, { name: 'vm\0other' }), protocol);
    const byUuid = procedures.domain_lookup_by_uuid.args;
    for (const broken of [
      `${uuid}00`,
      uuid.slice(1),
      uuid.replaceAll('-', '0'),
      `-${uuid.slice(1)}`,
      `ü${uuid.slice(1)}`,
    ])
      assert.throws(() => xdr.encode(byUuid, { uuid: broken }), protocol);
    const unknownCase = bytes('00000001 00000000 00000008 00000000');
    assert.throws(() => xdr.decode(typedParams, unknownCase), protocol);
  });
});

describe('events and errors', () => {
  it('reads a lifecycle event', () => {
    const event = decodeEvent(318, bytes(`00000000 ${domBytes} 00000005 00000002`));
    assert.ok(event?.name === 'lifecycle');
    assert.deepEqual(toLifecycle(event.message), { dom, event: 'stopped', detail: 'crashed' });
  });

  it('keeps the numbers of a lifecycle event that is newer than the table', () => {
    const event = { callbackID: 0, dom, event: 5, detail: 77 };
    assert.deepEqual(toLifecycle(event), { dom, event: 'stopped', detail: '5/77' });
    assert.equal(toLifecycle({ ...event, event: 99 }).event, 'unknown');
  });

  it('knows nothing of an event that is not in the table', () => {
    assert.equal(decodeEvent(9999, Buffer.alloc(0)), undefined);
  });

  const failure = (code: string): Buffer =>
    bytes(
      `${code} 0000000a 00000001 00000002 6e6f0000 00000002 00000000
      00000000 00000000 00000000 00000000 00000000 00000000`.replace(/\s+/g, ''),
    );
  const cases = [
    ['0000002a', 'DOMAIN_UNKNOWN', 42],
    ['00000037', 'HYPERVISOR_FAILED', 55],
  ] as const;
  for (const [wire, code, libvirtCode] of cases)
    it(`makes ${code} of libvirt's ${libvirtCode}`, () => {
      const error = decodeError(failure(wire), { procedure: 'x' });
      assert.equal(error.code, code);
      assert.equal(error.message, 'no');
      assert.deepEqual(error.details, {
        procedure: 'x',
        libvirtCode,
        libvirtDomain: 10,
        libvirtLevel: 2,
      });
    });
});
