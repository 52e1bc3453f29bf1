import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { decodeFacts } from '#tsi/protocol/facts.js';
import { MessageSplitter } from '#tsi/protocol/framing.js';
import { decodeListing, encodeListing, type ListedFile } from '#tsi/protocol/listing.js';
import {
  decodeEnd,
  decodeLength,
  decodePing,
  decodeReply,
  encodeFailed,
  encodeOk,
  encodePing,
} from '#tsi/protocol/reply.js';
import { decodeSpace, decodeStatus, encodeSpace, encodeStatus } from '#tsi/protocol/status.js';

function split(text: string): Buffer[] {
  return new MessageSplitter(10_000).push(Buffer.from(text));
}

describe('replies', () => {
  it('reads a payload with TSI_OK before it', () =>
    assert.equal(decodeReply('TSI_OK\nhello\n\n'), 'hello\n'));
  it('reads a payload of an old TSI', () => assert.equal(decodeReply('10.4.0\n', true), '10.4.0'));
  it('reads an empty payload', () => assert.equal(decodeReply('TSI_OK\n'), ''));
  it('throws the refusal of a TSI', () =>
    assert.throws(() => decodeReply('TSI_FAILED: no: such\n', true), {
      code: 'TSI_FAILED',
      message: 'no: such',
    }));
  it('throws on what is no reply', () =>
    assert.throws(() => decodeReply('hello\n'), { code: 'TSI_PROTOCOL' }));
  it('writes TSI_OK', () => assert.equal(encodeOk('a'), 'TSI_OK\na\nENDOFMESSAGE\n'));
  it('leaves TSI_OK out for old servers', () =>
    assert.equal(encodeOk('a', true), 'a\nENDOFMESSAGE\n'));
  it('writes a failure as one line', () =>
    assert.equal(
      encodeFailed('a\nENDOFMESSAGE\r\nTSI_OK\n'),
      'TSI_FAILED: a:ENDOFMESSAGE:TSI_OK\nENDOFMESSAGE\n',
    ));

  it('keeps a payload from ending its message', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('ENDOFMESSAGE', '\n', 'x', 'TSI_FAILED')), (parts) => {
        assert.equal(split(encodeOk(parts.join(''))).length, 1);
      }),
    );
  });

  it('tells our agent from other TSIs by its ping', () => {
    assert.equal(encodePing('11.2.1', false), '11.2.1');
    assert.deepEqual([...decodePing('11.2.1').extensions], []);
    assert.ok(decodePing(encodePing('11.2.1', true)).extensions.has('submit-id'));
    assert.equal(decodePing('11.2.1\n running as UID [0]').version, '11.2.1');
  });

  it('accepts no more bytes than were asked for', () => {
    assert.equal(decodeLength('TSI_LENGTH 734', 734), 734);
    for (const payload of ['TSI_LENGTH 735', 'TSI_LENGTH -1', 'TSI_LENGTH x', ''])
      assert.throws(() => decodeLength(payload, 734), { code: 'TSI_PROTOCOL' });
  });

  it('reads the end of a chunk', () => {
    decodeEnd('');
    assert.throws(() => decodeEnd('TSI_FAILED: disk full\n'), { code: 'TSI_FAILED' });
    assert.throws(() => decodeEnd('TSI_OK\n'), { code: 'TSI_PROTOCOL' });
  });
});

describe('listings', () => {
  const wire =
    'START_LISTING\n DRWXO 4096 1795177240 /home/alice/run 1/sub\n--rwxr-x--- alice users\n<\n' +
    '  RW O 1280005 1795177239 /home/alice/run 1/a b.bin\n--rw-r----- alice users extra\nEND_LISTING\n';
  it('reads what a real TSI sends', () =>
    assert.deepEqual(decodeListing(wire), [
      {
        path: '/home/alice/run 1/sub',
        isDirectory: true,
        sizeBytes: 4096,
        modifiedMs: 1_795_177_240_000,
        permissions: 'rwxr-x---',
        owner: 'alice',
        group: 'users',
        ownedByCaller: true,
        access: 'rwx',
      },
      {
        path: '/home/alice/run 1/a b.bin',
        isDirectory: false,
        sizeBytes: 1_280_005,
        modifiedMs: 1_795_177_239_000,
        permissions: 'rw-r-----',
        owner: 'alice',
        group: 'users',
        ownedByCaller: true,
        access: 'rw-',
      },
    ]));

  it('gives back what it was given, but for line breaks in names', () => {
    const file: fc.Arbitrary<ListedFile> = fc.record({
      path: fc.string({ unit: 'binary' }).map((name) => `/${name}`),
      isDirectory: fc.boolean(),
      sizeBytes: fc.nat({ max: Number.MAX_SAFE_INTEGER }),
      modifiedMs: fc.integer().map((seconds) => seconds * 1_000),
      permissions: fc.constantFrom('rwxr-x---', '---------', 'rwsr-sr-t'),
      owner: fc.constantFrom('alice', '54321'),
      group: fc.constantFrom('users', 'a-b.c'),
      ownedByCaller: fc.boolean(),
      access: fc.constantFrom('rwx', 'r--', '---'),
    });
    fc.assert(
      fc.property(fc.array(file), (files) => {
        const expected = files.map((one) => ({
          ...one,
          path: one.path.replaceAll(/[\r\n]/g, '?'),
        }));
        assert.deepEqual(decodeListing(encodeListing(files)), expected);
      }),
    );
  });

  for (const [name, text] of [
    ['without a start', ' D     1 1 /a\n'],
    ['without an end', 'START_LISTING\n'],
    ['with half an entry', 'START_LISTING\n DRWXO 4096 1795177240 /a\nEND_LISTING'],
    ['with a relative path', 'START_LISTING\n DRWXO 1 1 a\n--rwxr-x--- a b\nEND_LISTING'],
  ] as const)
    it(`refuses a listing ${name}`, () =>
      assert.throws(() => decodeListing(text), { code: 'TSI_PROTOCOL' }));

  it('throws where a stock TSI gives up in the middle', () =>
    assert.throws(() => decodeListing("START_LISTING\nTSI_FAILED: 'getpwuid()'\n"), {
      code: 'TSI_FAILED',
    }));
});

describe('status, space and facts', () => {
  it('reads a status listing', () =>
    assert.deepEqual(
      [...decodeStatus('QSTAT\n 4711 RUNNING batch RUNNING\n 4712 QUEUED\n\n')],
      [
        ['4711', { state: 'RUNNING', queue: 'batch', rawState: 'RUNNING' }],
        ['4712', { state: 'QUEUED' }],
      ],
    ));
  it('writes a status listing', () =>
    assert.equal(
      encodeStatus([['7', { state: 'RUNNING', queue: 'NOBATCH', rawState: 'S' }]]),
      'QSTAT\n 7 RUNNING NOBATCH S\n',
    ));
  for (const text of ['', 'QSTATS\n', 'QSTAT\n 1\n', 'QSTAT\n 1 EXPLODED\n'])
    it(`refuses the status ${JSON.stringify(text)}, lest a job be taken for ended`, () =>
      assert.throws(() => decodeStatus(text), { code: 'TSI_PROTOCOL' }));

  it('reads and writes space', () => {
    const space = { totalBytes: 5, freeBytes: 3, userBytes: -1 };
    assert.equal(encodeSpace(space), 'START_DF\nTOTAL 5\nFREE 3\nUSER -1\nEND_DF');
    assert.deepEqual(decodeSpace(encodeSpace(space)), space);
    assert.throws(() => decodeSpace('START_DF\nEND_DF'), { code: 'TSI_PROTOCOL' });
  });

  it('refuses facts that are none', () => {
    for (const json of ['', '[]', '{"cores":"2"}', 'null'])
      assert.throws(() => decodeFacts(json), { code: 'TSI_PROTOCOL' });
  });
});
