import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Readable } from 'node:stream';
import { collectText } from '#kernel/net/collect-text.js';
import { isFormType } from './foreign-pages.js';
import { readLenientJson } from './lenient-json.js';
import { mediaTypeOf } from './media-type.js';
import { RequestError, type Converters } from './operation.js';
import { jsonType } from './reply.js';

const defaultLimit = 1024 * 1024;
const deepest = 64;
/** A small body that takes longer than this is somebody holding the connection. */
const readTimeoutMs = 30_000;

/** Tells a client that waits for `100 Continue` to send its body. To be called before reading it. */
export function acceptBody(request: IncomingMessage, response: ServerResponse): void {
  if (/100-continue/i.test(request.headers.expect ?? '')) response.writeContinue();
}

/** Reads a request's object, `{}` for an empty body. @throws {@link RequestError} */
export async function readJsonBody(
  request: IncomingMessage,
  response: ServerResponse,
  limit = defaultLimit,
  converters: Converters = {},
): Promise<object> {
  const { headers } = request;
  const { 'content-encoding': encoding = 'identity' } = headers;
  const type = mediaTypeOf(headers) ?? jsonType;
  const announced = Number(headers['content-length'] ?? 0);
  if (announced > limit) throw tooLarge(limit);
  const isEmpty = announced === 0 && headers['transfer-encoding'] === undefined;
  const convert = Object.hasOwn(converters, type) ? converters[type] : undefined;
  if (!isEmpty && !convert && !/^application\/(?:[\w.-]+\+)?json$/.test(type))
    throw new RequestError('UNSUPPORTED_MEDIA_TYPE', `expected ${jsonType}, not ${type}`);
  if (encoding !== 'identity')
    throw new RequestError('UNSUPPORTED_MEDIA_TYPE', `content coding ${encoding} is not supported`);
  acceptBody(request, response);
  return convert ? convert(await readBody(request, limit)) : readJson(request, limit);
}

/** A form without fields has an empty body, as those have who want the defaults. @throws {@link RequestError} */
export function refuseForm({ headers }: IncomingMessage): void {
  if (isFormType(headers))
    throw new RequestError(
      'UNSUPPORTED_MEDIA_TYPE',
      `expected ${jsonType} or no body, not ${mediaTypeOf(headers)}: forms are not taken`,
    );
}

/** As {@link readJsonBody}, for a raw operation that found out that its body is JSON. */
export async function readJson(source: Readable, limit = defaultLimit): Promise<object> {
  const text = await readBody(source, limit);
  return text.trim() === '' ? {} : parseLenientJson(text);
}

/**
 * JSON as UNICORE's clients write it (unicore-rest 1.6).
 * @throws {@link RequestError} `BAD_REQUEST` also for numbers that lose digits and for deep nesting
 */
export function parseLenientJson(text: string): object {
  let value: unknown;
  let isStrict = true;
  try {
    value = JSON.parse(text);
  } catch {
    isStrict = false;
    value = readLenientJson(text, deepest);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new RequestError('BAD_REQUEST', 'expected a JSON object');
  // of two members with one name JSON.parse takes the last: the other reader says where they are
  const count = countMembers(value, 1);
  return isStrict && count < countKeys(text) ? readLenientJson(text, deepest) : value;
}

/** @throws {@link RequestError} `BAD_REQUEST` for what is extreme */
function countMembers(value: unknown, depth: number): number {
  if (typeof value === 'number' && !(Math.abs(value) <= Number.MAX_SAFE_INTEGER))
    throw new RequestError('BAD_REQUEST', `number out of range: ${value}`);
  if (typeof value !== 'object' || value === null) return 0;
  if (depth > deepest)
    throw new RequestError('BAD_REQUEST', `JSON is deeper than ${deepest} levels`);
  const members = Object.values(value);
  let count = Array.isArray(value) ? 0 : members.length;
  for (const member of members) count += countMembers(member, depth + 1);
  return count;
}

/** Of what is JSON: a text is a key if a colon follows. */
function countKeys(text: string): number {
  let count = 0;
  for (const [, colon] of text.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"\s*(:?)/g))
    if (colon !== '') count++;
  return count;
}

async function readBody(source: Readable, limit: number): Promise<string> {
  const timer = setTimeout(
    () => source.destroy(new RequestError('BAD_REQUEST', 'the body came too slowly')),
    readTimeoutMs,
  );
  try {
    // not destroyed at the limit, so that the answer can still be sent
    const text = await collectText(source.iterator({ destroyOnReturn: false }), limit);
    if (text === undefined) throw tooLarge(limit);
    return text;
  } finally {
    clearTimeout(timer);
  }
}

function tooLarge(limit: number): RequestError {
  return new RequestError('TOO_LARGE', `the body is larger than ${limit} bytes`);
}
