import type { IncomingHttpHeaders } from 'node:http';
import { GridError } from '#kernel/errors.js';
import { RequestError } from '#kernel/http/operation.js';
import { contentRange, parseRange } from '#kernel/http/range.js';
import { stream, type Reply } from '#kernel/http/reply.js';
import type { FileInfo, FileSpace } from '#xnjs/index.js';

export const bytesType = 'application/octet-stream';
export const mediaType = /^[\w.+-]{1,64}\/[\w.+-]{1,64}(?:[ \t]*;[\x20-\x7e]{0,128})?$/;

/** Times of files are told in seconds: one that has just changed may do so again unseen. */
const settledMs = 2_000;

/** Strong as soon as the file cannot change again within the second that it has changed in. */
export function entityTag({ sizeBytes, modifiedMs }: FileInfo, nowMs: number): string {
  const tag = `"${sizeBytes.toString(36)}-${modifiedMs.toString(36)}"`;
  return nowMs - modifiedMs > settledMs ? tag : `W/${tag}`;
}

type Headers = IncomingHttpHeaders;
type Download = {
  readonly headers: Headers;
  readonly signal: AbortSignal;
  readonly nowMs: number;
  readonly type?: string | undefined;
  /** The most that may be read. */
  readonly maxBytes?: number | undefined;
  readonly disposition?: string;
  /** Told how many bytes are about to be sent. */
  readonly note?: (bytes: number) => void;
};

/** The bytes of a file, or one range of them, for GET with its conditions (RFC 9110, 13). */
export function download(files: FileSpace, entry: FileInfo, how: Download): Reply {
  if (entry.isDirectory) throw new RequestError('NOT_ACCEPTABLE', 'a directory has no bytes');
  const { headers, signal, type, disposition } = how;
  const etag = entityTag(entry, how.nowMs);
  const about = { etag, 'last-modified': new Date(entry.modifiedMs).toUTCString() };
  refuseUnlessMatching(headers['if-match'], etag);
  if (isFresh(headers, etag, entry.modifiedMs)) return { status: 304, headers: about };
  const sizeBytes = Math.min(entry.sizeBytes, how.maxBytes ?? Infinity);
  const ifRange = headers['if-range'];
  const isSame = ifRange === undefined || ifRange === etag;
  const range = isSame ? parseRange(headers.range, sizeBytes) : undefined;
  const { offset, length } = range ?? { offset: 0, length: sizeBytes };
  how.note?.(length);
  return stream(files.read(entry.path, { offset, length }, { signal }), {
    status: range ? 206 : 200,
    headers: {
      ...about,
      'content-type': type !== undefined && mediaType.test(type) ? type : bytesType,
      // what a user has stored is no page of ours, whatever its type says
      'content-security-policy': 'sandbox',
      'x-content-type-options': 'nosniff',
      'accept-ranges': 'bytes',
      'content-length': length,
      'content-range': range && contentRange(range, sizeBytes),
      'content-disposition': disposition,
    },
  });
}

/** `attachment; filename="x"`, with any name (RFC 6266). */
export function attachment(path: string): string {
  const name = path.slice(path.lastIndexOf('/') + 1);
  const plain = name.replaceAll(/[^\x20-\x7e]|["\\%]/g, '_');
  const encoded = encodeURIComponent(name).replaceAll(
    /['()*]/g,
    (letter) => `%${letter.charCodeAt(0).toString(16)}`,
  );
  return `attachment; filename="${plain}"${plain === name ? '' : `; filename*=UTF-8''${encoded}`}`;
}

/** @throws `PRECONDITION_FAILED` the file is another than the client thinks */
export function refuseUnlessMatching(
  condition: string | undefined,
  etag: string | undefined,
): void {
  if (condition === undefined) return;
  const fits =
    condition.trim() === '*'
      ? etag !== undefined
      : etag !== undefined && !etag.startsWith('W/') && tagsIn(condition).includes(etag);
  if (!fits) throw new GridError('PRECONDITION_FAILED', `the file is ${etag ?? 'not there'}`);
}

/** @throws `PRECONDITION_FAILED` there is such a file */
export function refuseIfMatching(condition: string | undefined, etag: string | undefined): void {
  if (condition === undefined || etag === undefined) return;
  if (condition.trim() === '*' || tagsIn(condition).some((tag) => bare(tag) === bare(etag)))
    throw new GridError('PRECONDITION_FAILED', `the file is there, as ${etag}`);
}

function isFresh(headers: Headers, etag: string, modifiedMs: number): boolean {
  const condition = headers['if-none-match'];
  if (condition !== undefined)
    return condition.trim() === '*' || tagsIn(condition).some((tag) => bare(tag) === bare(etag));
  const since = Date.parse(headers['if-modified-since'] ?? '');
  return since >= modifiedMs; // not for what is no date
}

function tagsIn(condition: string): readonly string[] {
  return condition.match(/(?:W\/)?"[^"]*"/g) ?? [];
}

function bare(tag: string): string {
  return tag.replace(/^W\//, '');
}
