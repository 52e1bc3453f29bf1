import { open } from 'node:fs/promises';
import { readMarkOfDomain, type DomainMark } from './domain-mark.js';
import { isComplete } from './parking.js';

/** libvirt's `virQEMUSaveHeader`: magic, version, length of what follows, three more numbers, padding. */
const headerBytes = 92;
const lengthAt = 20;
/** Definitions have some 10 KiB. */
const mostBytes = 1024 * 1024;

/**
 * Whose machine it is whose memory is in such a file: libvirt writes its definition in front, as text that ends
 * with NUL.
 * @returns `undefined`: nothing is there, it is not complete, or says nothing of that
 */
export async function readParkedMark(path: string): Promise<DomainMark | undefined> {
  if (!(await isComplete(path))) return undefined;
  await using file = await open(path);
  const { buffer: header, bytesRead } = await file.read(Buffer.alloc(headerBytes), 0);
  // of a host with another order of bytes it would be far too long
  const length = bytesRead < headerBytes ? 0 : header.readUInt32LE(lengthAt);
  if (length === 0 || length > mostBytes) return undefined;
  const { buffer: text, bytesRead: got } = await file.read(Buffer.alloc(length), 0, length, headerBytes); // prettier-ignore
  const end = text.indexOf(0);
  return readMarkOfDomain(text.subarray(0, end < 0 ? got : end).toString());
}
