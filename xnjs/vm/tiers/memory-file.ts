import { hostName } from '../domain-xml.js';

/** A file of saved memory, wherever it is. */
export type MemoryFile = {
  /** All of it, from its beginning. */
  chunks(): AsyncIterable<Buffer>;
  /** Less than `length` at its end. */
  read(at: number, length: number): Promise<Buffer>;
  write(at: number, bytes: Buffer): Promise<void>;
};

/** Who a machine is in its memory. */
export type MemoryIdentity = {
  /** The domain's. */
  readonly id: string;
  /** The kernel's name of its boot: a UUID. */
  readonly bootId: string;
};
/** A place in a file of saved memory that says who its machine is, and how. */
export type Patch = { readonly form: Form; readonly at: number };

const bytesOf = (uuid: string): Buffer => Buffer.from(uuid.replaceAll('-', ''), 'hex');

/**
 * In which forms a machine's identity is in its memory: as text (the header with the domain's definition,
 * paths), as the beginning of its name (command line, host name), and as firmware tables and kernel hold a
 * UUID. All are as long for each machine, so that a copy can be given another one's in place.
 */
const forms = {
  id: ({ id }) => Buffer.from(id),
  upperId: ({ id }) => Buffer.from(id.toUpperCase()),
  name: ({ id }) => Buffer.from(hostName({ id })),
  bytes: ({ id }) => bytesOf(id),
  /** The first three fields are little-endian in SMBIOS tables. */
  smbios: ({ id }) => {
    const bytes = bytesOf(id);
    for (const [from, to] of [
      [0, 4],
      [4, 6],
      [6, 8],
    ] as const)
      bytes.subarray(from, to).reverse();
    return bytes;
  },
  bootId: ({ bootId }) => Buffer.from(bootId),
  bootBytes: ({ bootId }) => bytesOf(bootId),
} as const satisfies Record<string, (identity: MemoryIdentity) => Buffer>;
type Form = keyof typeof forms;
const formNames = Object.keys(forms) as Form[]; // keys of the object above

/** Longer than any of the forms. */
const longestForm = 64;
/** Far more than any machine that was only booted has. */
const mostPatches = 20_000;
/** Places that are so near are read and written together: on another host each piece is a stream of its own. */
const nearBytes = 128 * 1024;
const longestPiece = 4 * 1024 * 1024;

/** Finds all places where the memory of a machine says that it is this one. */
export async function findIdentity(
  { chunks }: Pick<MemoryFile, 'chunks'>,
  who: MemoryIdentity,
): Promise<Patch[]> {
  const wanted = formNames.map((form) => ({ form, bytes: forms[form](who) }));
  const found = new Map<string, Patch>();
  /** What follows was read before, and may be the beginning of one. */
  let rest = Buffer.alloc(0);
  let start = 0;
  for await (const chunk of chunks()) {
    const piece = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    for (const { form, bytes } of wanted)
      for (let at = piece.indexOf(bytes); at >= 0; at = piece.indexOf(bytes, at + 1))
        found.set(`${form} ${start + at}`, { form, at: start + at });
    if (found.size > mostPatches) throw new Error('its id is in too many places of its memory');
    rest = Buffer.from(piece.subarray(-longestForm));
    start += piece.length - rest.length;
  }
  return [...found.values()];
}

/** Makes a copy of the memory of a machine another one's. */
export async function giveIdentity(
  file: Pick<MemoryFile, 'read' | 'write'>,
  { patches, from, to }: { patches: readonly Patch[]; from: MemoryIdentity; to: MemoryIdentity },
): Promise<void> {
  for (const { at, length, within } of piecesOf(patches)) {
    const bytes = await file.read(at, length);
    // an id holds the beginning of its name, and goes first
    const order = within.toSorted((a, b) => formNames.indexOf(a.form) - formNames.indexOf(b.form));
    for (const patch of order)
      replace(bytes, patch.at - at, forms[patch.form](from), forms[patch.form](to));
    await file.write(at, bytes);
  }
}

type Piece = { readonly at: number; length: number; readonly within: Patch[] };

function piecesOf(patches: readonly Patch[]): Piece[] {
  const pieces: Piece[] = [];
  for (const patch of patches.toSorted((a, b) => a.at - b.at)) {
    const last = pieces.at(-1);
    if (!last || !isNear(last, patch))
      pieces.push({ at: patch.at, length: longestForm, within: [patch] });
    else {
      last.length = patch.at - last.at + longestForm;
      last.within.push(patch);
    }
  }
  return pieces;
}

/** What overlaps is never taken apart. */
function isNear({ at, length }: Piece, patch: Patch): boolean {
  const gap = patch.at - (at + length);
  return gap <= 0 || (gap <= nearBytes && patch.at - at <= longestPiece);
}

function replace(bytes: Buffer, at: number, former: Buffer, next: Buffer): void {
  const place = bytes.subarray(at, at + former.length);
  // an id holds its own beginning, which may have been replaced with it
  if (!place.equals(former) && !place.equals(next)) throw new Error('the saved memory is another');
  next.copy(bytes, at);
}
