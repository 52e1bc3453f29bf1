import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { toRestore, withMappedMemory, withoutMapped } from '#xnjs/vm/memory-backend.js';
import { withoutMemory } from '#xnjs/vm/tiers/split-memory.js';

const pageBytes = 4096;
const sizeBytes = 64 * pageBytes;
const [zero, sizes, page, end, sameBlock] = [0x02, 0x04, 0x08, 0x10, 0x20];

const word = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};
const long = (value: number): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
};
const named = (name: string): Buffer =>
  Buffer.concat([Buffer.from([name.length]), Buffer.from(name)]);
const pageOf = (letter: string): Buffer => Buffer.alloc(pageBytes, letter);

/** libvirt's file, by hand: `LibvirtQemudSave`, version 2, and a definition. */
function savedWith(compression: number, ...stream: readonly Buffer[]): Buffer {
  const definition = Buffer.from('<domain/>\0');
  const head = Buffer.alloc(92);
  head.write('LibvirtQemudSave');
  head.writeUInt32LE(2, 16);
  head.writeUInt32LE(definition.length, 20);
  head.writeUInt32LE(compression, 28);
  return Buffer.concat([head, definition, ...stream]);
}

const configuration = Buffer.concat([Buffer.from([7]), word(8), Buffer.from('pc-q35-7')]);
const prelude = Buffer.concat([Buffer.from('QEVM'), word(3), configuration]);
const memory = word(5);
const footer = Buffer.concat([Buffer.from([0x7e]), memory]);
const begin = (type: number): Buffer => Buffer.concat([Buffer.from([type]), memory]);
const start = Buffer.concat([begin(1), named('ram'), word(0), word(4)]);
const blocks = (name: string): Buffer[] => [
  ...[long((sizeBytes + 2 * pageBytes) | sizes), named(name), long(sizeBytes)],
  ...[named('bios'), long(2 * pageBytes), long(end)],
];
const devices = Buffer.from('\x04 devices, which nobody has to understand');

/** With these pages of the first part and of the last. */
const streamOf = (name: string, part: readonly Buffer[], last: readonly Buffer[]): Buffer[] => [
  ...[prelude, start, ...blocks(name), footer, begin(2), ...part, long(end), footer],
  ...[begin(3), ...last, long(end), footer, devices],
];
/** Read in pieces of this many bytes. */
async function* pieces(bytes: Buffer, length: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += length) {
    await Promise.resolve();
    yield bytes.subarray(at, at + length);
  }
}

async function split(saved: Buffer, length = 1_000): Promise<{ left: Buffer; ram: Buffer }> {
  const ram = Buffer.alloc(sizeBytes);
  const onPages = (at: number, bytes: Buffer): Promise<void> => {
    bytes.copy(ram, at);
    return Promise.resolve();
  };
  const left: Buffer[] = [];
  const options = { sizeBytes, name: 'own.ram', onPages };
  for await (const piece of withoutMemory(pieces(saved, length), options)) left.push(piece);
  return { left: Buffer.concat(left), ram };
}

describe('saved memory that is to be mapped', () => {
  const saved = savedWith(
    0,
    ...streamOf(
      'pc.ram',
      [
        ...[
          long(page),
          named('pc.ram'),
          pageOf('a'),
          long(pageBytes | zero | sameBlock),
          Buffer.from([0]),
        ],
        ...[long(page), named('bios'), pageOf('b')],
        ...[long((2 * pageBytes) | page), named('pc.ram'), pageOf('c')],
        ...[long((3 * pageBytes) | page | sameBlock), pageOf('d')],
        ...[long(pageBytes | zero), named('bios'), Buffer.from([0])],
      ],
      // once more: it was written to while it was saved
      [long((2 * pageBytes) | zero), named('pc.ram'), Buffer.from([0])],
    ),
  );

  for (const length of [7, 1_000, saved.length])
    it(`is taken out page by page, and the rest stays, read ${length} bytes at a time`, async () => {
      const { left, ram } = await split(saved, length);
      const expected = Buffer.alloc(sizeBytes);
      expected.fill('a', 0, pageBytes);
      expected.fill('d', 3 * pageBytes, 4 * pageBytes);
      assert.ok(ram.equals(expected));
      const rest = [
        ...[long(page), named('bios'), pageOf('b')],
        ...[long(pageBytes | zero | sameBlock), Buffer.from([0])],
      ];
      assert.ok(left.equals(savedWith(0, ...streamOf('own.ram', rest, []))));
    });

  it('is refused where anything of it is not known', async () => {
    const cases: readonly [what: RegExp, saved: Buffer][] = [
      [/file .* unknown kind/, savedWith(2, ...streamOf('pc.ram', [], []))],
      [/file .* unknown kind/, Buffer.alloc(4_096)],
      [/ends too early/, saved.subarray(0, 50)],
      [/ends too early/, saved.subarray(0, saved.length - 200)],
      [/stream .* unknown kind/, savedWith(0, Buffer.from('QEVM'), word(4), start)],
      [
        /another size/,
        savedWith(0, prelude, start, long(pageBytes | sizes), named('x'), long(pageBytes)),
      ],
      [
        /out of it/,
        savedWith(
          0,
          ...streamOf('pc.ram', [long(sizeBytes | page), named('pc.ram'), pageOf('a')], []),
        ),
      ],
      [/entry of an unknown kind: 140/, savedWith(0, ...streamOf('pc.ram', [long(0x140)], []))],
      [
        /in a row/,
        savedWith(0, prelude, start, ...blocks('pc.ram'), footer, Buffer.from([2]), word(6)),
      ],
      [/has no end/, savedWith(0, prelude, start, ...blocks('pc.ram'), devices)],
    ];
    for (const [reason, bytes] of cases) await assert.rejects(split(bytes), reason);
  });
});

describe('a machine whose memory was mapped', () => {
  const own = '<domain type="qemu"><name>x</name></domain>';
  const file = { path: '/files/a,b.ram', sizeBytes };
  const mapped = withMappedMemory(own, file);
  /** As libvirt writes it. */
  const asSaved = mapped
    .replace(
      '<domain type="qemu">',
      "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>",
    )
    .replace(
      '<qemu:commandline xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">',
      '<qemu:commandline>',
    );

  it('is restored with memory of that name, and without the file', () => {
    for (const definition of [
      toRestore(asSaved),
      toRestore(asSaved, own),
      toRestore(toRestore(asSaved)),
    ]) {
      assert.match(definition, /memory-backend-ram/);
      assert.match(
        definition,
        new RegExp(`&quot;size&quot;:${sizeBytes},&quot;id&quot;:&quot;vsite.ram`),
      );
      assert.equal(definition.match(/commandline/g)?.length, 2);
      assert.doesNotMatch(definition, /a,b\.ram/);
    }
  });

  it('is defined, and booted later, as any other', () => {
    assert.doesNotMatch(withoutMapped(asSaved), /commandline|vsite\.ram/);
  });

  it('is another than one that was not, whose definition stays', () => {
    assert.equal(toRestore(own), own);
    assert.equal(withoutMapped(own), own);
    assert.equal(toRestore(own, '<domain>new</domain>'), '<domain>new</domain>');
  });
});
