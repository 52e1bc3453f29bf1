import type { IncomingHttpHeaders } from 'node:http';
import { ImageError } from './errors.js';

/**
 * The SHA-256 that a sender announces: in the query, in `Repr-Digest` or `Content-Digest` (RFC 9530) or
 * in the older `Digest` (RFC 3230). Other algorithms are passed over.
 * @returns hexadecimal
 * @throws {@link ImageError} `IMAGE_INVALID` when it is malformed
 */
export function announcedSha256(
  query: string | undefined,
  headers: IncomingHttpHeaders,
): string | undefined {
  if (query !== undefined) return query.toLowerCase();
  const value = headers['repr-digest'] ?? headers['content-digest'] ?? headers['digest'];
  const [, encoded] = /(?:^|[\s,])sha-256=([^,\s]*)/i.exec(String(value ?? '')) ?? [];
  if (encoded === undefined) return undefined;
  const bytes = Buffer.from(encoded.replace(/^:(.*):$/, '$1'), 'base64');
  if (bytes.length !== 32) throw new ImageError('IMAGE_INVALID', `malformed digest ${encoded}`);
  return bytes.toString('hex');
}

/** `Repr-Digest` of a content. */
export function reprDigest(sha256: string): string {
  return `sha-256=:${Buffer.from(sha256, 'hex').toString('base64')}:`;
}
