import { RequestError } from './operation.js';

/** Bytes `[offset, offset + length)`. */
export type ByteRange = { readonly offset: number; readonly length: number };

/**
 * One range of `Range: bytes=a-b`, `a-` or `-n` (RFC 9110, 14). Several ranges, or another unit, are
 * treated as none, which the RFC allows: the whole is sent. So is nothing, of which there are no parts: pyunicore reads
 * the first bytes of what a job has written, and fails where there are none yet.
 * @throws {@link RequestError} `RANGE_NOT_SATISFIABLE`
 */
export function parseRange(header: string | undefined, sizeBytes: number): ByteRange | undefined {
  if (header === undefined || !header.startsWith('bytes=') || header.includes(','))
    return undefined;
  const [, first = '', last = ''] = /^bytes=\s*(\d{0,15})-(\d{0,15})\s*$/.exec(header) ?? [];
  if (first === '' && last === '') throw unsatisfiable(header, sizeBytes);
  if (sizeBytes === 0) return undefined;
  const offset = first === '' ? Math.max(sizeBytes - Number(last), 0) : Number(first);
  const end = first === '' || last === '' ? sizeBytes : Math.min(Number(last) + 1, sizeBytes);
  if (offset >= end) throw unsatisfiable(header, sizeBytes);
  return { offset, length: end - offset };
}

/** `Content-Range` of an answer 206. */
export function contentRange({ offset, length }: ByteRange, sizeBytes: number): string {
  return `bytes ${offset}-${offset + length - 1}/${sizeBytes}`;
}

/** Where the body of an upload begins, as its `Content-Range` says; `undefined` without one. */
export function parseContentRange(header: string | undefined): number | undefined {
  if (header === undefined) return undefined;
  const [, first] = /^bytes\s+(\d{1,15})-\d{1,15}\/(?:\d{1,15}|\*)$/.exec(header) ?? [];
  if (first === undefined)
    throw new RequestError('BAD_REQUEST', 'Content-Range must be bytes FIRST-LAST/SIZE');
  return Number(first);
}

function unsatisfiable(range: string, sizeBytes: number): RequestError {
  return new RequestError('RANGE_NOT_SATISFIABLE', `cannot serve ${range} of ${sizeBytes} bytes`);
}
