import type { Content } from './content.js';

/** QEMU, docs/interop/qcow2.rst: big-endian; version 2 ends at 72, version 3 at 104 or later. */
const magic = 0x514649fb;
const headerLengthV2 = 72;
const smallestHeaderV3 = 104;
const longestHeader = 65_536;

/** The incompatible features that do no harm: dirty, compression type, extended L2 entries. */
const harmlessFeatures = (1n << 0n) | (1n << 3n) | (1n << 4n);
const externalDataFile = 1n << 2n;

/** Header extensions that name a file; the others are harmless or unknown, which QEMU ignores. */
const extensionsWithFiles = new Map([
  [0xe2792aca, 'a backing file format'],
  [0x44415441, 'an external data file'],
]);

/**
 * A disk that consists of this one file. One that names another file (backing or data) would let its
 * author read files of the host: QEMU opens them by name.
 * @returns what is wrong with it
 */
export async function checkQcow2(
  content: Content,
  maxDiskBytes: number,
): Promise<string | undefined> {
  const head = await content.read(0, longestHeader);
  if (head.length < headerLengthV2 || head.readUInt32BE(0) !== magic) return 'is no qcow2 image';
  const version = head.readUInt32BE(4);
  if (version !== 2 && version !== 3) return `has the unknown version ${version}`;
  if (head.readBigUInt64BE(8) !== 0n || head.readUInt32BE(16) !== 0) return 'has a backing file';
  const clusterBits = head.readUInt32BE(20);
  if (clusterBits < 9 || clusterBits > 21) return `has clusters of 2^${clusterBits} bytes`;
  const diskBytes = head.readBigUInt64BE(24);
  if (diskBytes === 0n || diskBytes > BigInt(maxDiskBytes))
    return `has ${diskBytes.toString()} bytes when unpacked, allowed are 1 to ${maxDiskBytes}`;
  if (head.readUInt32BE(32) !== 0) return 'is encrypted';
  return checkTable(head, content.sizeBytes) ?? checkVersion3(head, version, clusterBits);
}

/** What a machine sees of a disk that {@link checkQcow2} has found well. */
export async function virtualBytesOf(content: Content): Promise<number> {
  return Number((await content.read(0, headerLengthV2)).readBigUInt64BE(24));
}

/** The L1 table must lie in the file. */
function checkTable(head: Buffer, sizeBytes: number): string | undefined {
  const end = head.readBigUInt64BE(40) + 8n * BigInt(head.readUInt32BE(36));
  return end > BigInt(sizeBytes) ? 'is cut short' : undefined;
}

function checkVersion3(head: Buffer, version: number, clusterBits: number): string | undefined {
  if (version === 2) return checkExtensions(head, headerLengthV2, clusterBits);
  if (head.length < smallestHeaderV3) return 'is cut short';
  const features = head.readBigUInt64BE(72);
  if ((features & externalDataFile) !== 0n) return 'has an external data file';
  if ((features & ~harmlessFeatures) !== 0n) return 'is corrupt or has unknown features';
  const headerLength = head.readUInt32BE(100);
  if (headerLength < smallestHeaderV3 || headerLength % 8 !== 0 || headerLength > head.length)
    return `has a header of ${headerLength} bytes`;
  return checkExtensions(head, headerLength, clusterBits);
}

/** They follow the header: type and length, then data padded to 8 bytes; type 0 ends them. */
function checkExtensions(head: Buffer, start: number, clusterBits: number): string | undefined {
  const end = Math.min(head.length, 2 ** clusterBits);
  for (let at = start; at + 8 <= end;) {
    const type = head.readUInt32BE(at);
    if (type === 0) return undefined;
    const names = extensionsWithFiles.get(type);
    if (names !== undefined) return `names ${names}`;
    at += 8 + Math.ceil(head.readUInt32BE(at + 4) / 8) * 8;
  }
  return 'has header extensions that do not end';
}
