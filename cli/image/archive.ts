import assert from 'node:assert/strict';

/** One file of an image. Archives carry no times and no names of users: same tree, same bytes. */
export type Entry = { mode: number; owner: number } & (
  { type: 'directory' } | { type: 'file'; content: Uint8Array } | { type: 'link'; target: string }
);

/** Absolute path to entry; the directories above an entry must be in it too. */
export type Tree = ReadonlyMap<string, Entry>;

type Part = { path: string; entry: Entry; body: Uint8Array };

/** In the order of their bytes, so that a directory comes before what is in it. */
function* parts(tree: Tree): Generator<Part> {
  const order = [...tree.keys()].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  for (const path of order) {
    const entry = tree.get(path);
    assert(entry && path.startsWith('/'), `${path}: not in the tree`);
    const body =
      entry.type === 'file'
        ? entry.content
        : Buffer.from(entry.type === 'link' ? entry.target : '');
    yield { path: path.slice(1), entry, body };
  }
}

const padding = (length: number, unit: number) => Buffer.alloc((unit - (length % unit)) % unit);
const cpioTypes = { directory: 0o040000, file: 0o100000, link: 0o120000 } as const;

/** The "newc" format of cpio, which the kernel unpacks as its initial root. */
export function* cpio(tree: Tree): Generator<Uint8Array> {
  let inode = 1;
  const member = function* (path: string, words: number[], body: Uint8Array) {
    const name = Buffer.from(`${path}\0`);
    const fields = [...words, name.length, 0].map((n) => n.toString(16).padStart(8, '0'));
    const head = Buffer.concat([Buffer.from(`070701${fields.join('')}`), name]);
    yield Buffer.concat([head, padding(head.length, 4)]);
    yield body;
    yield padding(body.length, 4);
  };
  for (const { path, entry, body } of parts(tree)) {
    const { mode, owner, type } = entry;
    const links = type === 'directory' ? 2 : 1;
    // inode, mode, uid, gid, links, mtime, size, device and special device (major, minor)
    const words = [inode++, cpioTypes[type] | mode, owner, owner, links, 0, body.length];
    yield* member(path, [...words, 0, 0, 0, 0], body);
  }
  yield* member('TRAILER!!!', [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], Buffer.alloc(0));
}

const tarTypes = { directory: '5', file: '0', link: '2' } as const;

/** The "ustar" format of tar (POSIX.1-1988). */
export function* tar(tree: Tree): Generator<Uint8Array> {
  const block = 512;
  for (const { path, entry, body } of parts(tree)) {
    const name = entry.type === 'directory' ? `${path}/` : path;
    const target = entry.type === 'link' ? entry.target : '';
    assert(Buffer.byteLength(name) <= 100 && Buffer.byteLength(target) <= 100, `${path}: too long`);
    const size = entry.type === 'file' ? body.length : 0;
    const octal = (n: number, digits: number) => `${n.toString(8).padStart(digits, '0')}\0`;
    const head = Buffer.alloc(block);
    head.write(name, 0);
    head.write(octal(entry.mode, 7) + octal(entry.owner, 7) + octal(entry.owner, 7), 100);
    head.write(octal(size, 11) + octal(0, 11), 124);
    head.write(`        ${tarTypes[entry.type]}${target}`, 148);
    head.write('ustar\x0000', 257);
    const sum = head.reduce((total, byte) => total + byte, 0);
    head.write(`${octal(sum, 6)} `, 148);
    yield head;
    if (size > 0) yield body;
    yield padding(size, block);
  }
  yield Buffer.alloc(2 * block);
}
