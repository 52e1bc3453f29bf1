import { constants } from 'node:fs';
import { copyFile, open, type FileHandle } from 'node:fs/promises';
import { hostName } from '../domain-xml.js';

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

const chunkBytes = 4 * 1024 * 1024;
const longestForm = 64;
/** Far more than any machine that was only booted has. */
const mostPatches = 20_000;

/** Finds all places where the memory of a machine says that it is this one. */
export async function findIdentity(path: string, who: MemoryIdentity): Promise<Patch[]> {
  await using file = await open(path);
  const wanted = formNames.map((form) => ({ form, bytes: forms[form](who) }));
  const found = new Map<string, Patch>();
  const buffer = Buffer.alloc(chunkBytes + longestForm);
  for (let start = 0; ; start += chunkBytes) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length, start);
    const chunk = buffer.subarray(0, bytesRead);
    for (const { form, bytes } of wanted)
      for (let at = chunk.indexOf(bytes); at >= 0; at = chunk.indexOf(bytes, at + 1))
        found.set(`${form} ${start + at}`, { form, at: start + at });
    if (found.size > mostPatches) throw new Error('its id is in too many places of its memory');
    if (bytesRead < buffer.length) return [...found.values()];
  }
}

/** A copy of the memory of a machine, in which it is another one. */
export async function copyMemory(
  source: string,
  target: string,
  { patches, from, to }: { patches: readonly Patch[]; from: MemoryIdentity; to: MemoryIdentity },
): Promise<void> {
  await copyFile(source, target, constants.COPYFILE_FICLONE);
  await using file = await open(target, 'r+');
  for (const { form, at } of patches) await replace(file, at, forms[form](from), forms[form](to));
}

async function replace(file: FileHandle, at: number, former: Buffer, next: Buffer): Promise<void> {
  const { buffer } = await file.read(Buffer.alloc(former.length), 0, former.length, at);
  // an id holds its own beginning, which may have been replaced with it
  if (!buffer.equals(former) && !buffer.equals(next))
    throw new Error('the saved memory is another');
  await file.write(next, 0, next.length, at);
}
