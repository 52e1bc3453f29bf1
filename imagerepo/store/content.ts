import type { ImageMetadata, PartName } from '../contract.js';
import { ImageError } from '../errors.js';
import { checkQcow2 } from './qcow2.js';

/** A part's bytes, read where a check wants to look. A read past the end gives what there is. */
export type Content = {
  readonly sizeBytes: number;
  read(offset: number, length: number): Promise<Buffer>;
};

export type ContentLimits = { readonly maxDiskBytes: number };
type Architecture = ImageMetadata['os']['architecture'];
type Check = (
  content: Content,
  architecture: Architecture,
  limits: ContentLimits,
) => Promise<string | undefined>;

const checks: Readonly<Record<PartName, Check>> = {
  kernel: async (content, architecture) => {
    const head = await content.read(0, 0x208);
    return isKernel[architecture](head) ? undefined : `is no Linux kernel for ${architecture}`;
  },
  initrd: async (content) => {
    const head = await content.read(0, 8);
    const known = initrdMagics.some((magic) => startsWith(head, magic));
    return known ? undefined : 'is neither a cpio archive nor a compressed one';
  },
  disk: (content, _architecture, { maxDiskBytes }) => checkQcow2(content, maxDiskBytes),
  rootfs: async (content) =>
    isTarHeader(await content.read(0, 512)) ? undefined : 'is no tar archive',
};

/**
 * Looks whether a part is what it is said to be, before a hypervisor gets to see it.
 * @throws {@link ImageError} `IMAGE_INVALID` naming the part and the reason
 */
export async function checkContent(
  part: PartName,
  content: Content,
  architecture: Architecture,
  limits: ContentLimits,
): Promise<void> {
  const fault = await checks[part](content, architecture, limits);
  if (fault !== undefined) throw new ImageError('IMAGE_INVALID', `${part} ${fault}`, { part });
}

/** ELF `e_machine` (System V ABI), boot protocol of x86 (`HdrS`) and of arm64 (`ARM\x64`). */
const isKernel: Readonly<Record<Architecture, (head: Buffer) => boolean>> = {
  x86_64: (head) =>
    isElf(head, 62) || (textAt(head, 0x202, 4) === 'HdrS' && head.readUInt16LE(0x1fe) === 0xaa55),
  aarch64: (head) => isElf(head, 183) || textAt(head, 0x38, 4) === 'ARM\x64',
};

function isElf(head: Buffer, machine: number): boolean {
  return textAt(head, 0, 4) === '\x7fELF' && head.length > 20 && head.readUInt16LE(18) === machine;
}

/** What Linux unpacks: `lib/decompress.c`, `init/initramfs.c`. */
const initrdMagics: readonly (readonly number[])[] = [
  [0x30, 0x37, 0x30, 0x37, 0x30, 0x31], // cpio "070701"
  [0x30, 0x37, 0x30, 0x37, 0x30, 0x32], // cpio "070702", with checksums
  [0x1f, 0x8b], // gzip
  [0x02, 0x21, 0x4c, 0x18], // lz4, legacy frame
  [0x28, 0xb5, 0x2f, 0xfd], // zstd
  [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], // xz
];

/** The checksum counts its own field as blanks (POSIX.1-1988, ustar; older forms have it too). */
function isTarHeader(head: Buffer): boolean {
  if (head.length < 512 || head[0] === 0) return false;
  const stored = Number.parseInt(textAt(head, 148, 8), 8);
  let sum = 8 * 0x20;
  for (const [i, byte] of head.entries()) if (i < 148 || i >= 156) sum += byte;
  return stored === sum;
}

function startsWith(head: Buffer, magic: readonly number[]): boolean {
  return head.subarray(0, magic.length).equals(Buffer.from(magic));
}

function textAt(head: Buffer, offset: number, length: number): string {
  return head.toString('latin1', offset, offset + length);
}
