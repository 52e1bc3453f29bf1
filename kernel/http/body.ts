import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Readable } from 'node:stream';
import json5 from 'json5';
import { errorText } from '#kernel/errors.js';
import { collectText } from '#kernel/net/collect-text.js';
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
  const { 'content-type': type = jsonType, 'content-encoding': encoding = 'identity' } = headers;
  const announced = Number(headers['content-length'] ?? 0);
  if (announced > limit) throw tooLarge(limit);
  const isEmpty = announced === 0 && headers['transfer-encoding'] === undefined;
  const mediaType = type.split(';', 1)[0]?.trim().toLowerCase() ?? '';
  const convert = Object.hasOwn(converters, mediaType) ? converters[mediaType] : undefined;
  if (!isEmpty && !convert && !/^\s*application\/(?:[\w.-]+\+)?json\s*(?:;|$)/i.test(type))
    throw new RequestError('UNSUPPORTED_MEDIA_TYPE', `expected ${jsonType}, not ${type}`);
  if (encoding !== 'identity')
    throw new RequestError('UNSUPPORTED_MEDIA_TYPE', `content coding ${encoding} is not supported`);
  acceptBody(request, response);
  return convert ? convert(await readBody(request, limit)) : readJson(request, limit);
}

/** The same for a raw operation that found out that its body is JSON. */
export async function readJson(source: Readable, limit = defaultLimit): Promise<object> {
  const text = await readBody(source, limit);
  return text.trim() === '' ? {} : parseLenientJson(text);
}

/**
 * JSON as UNICORE's clients write it (unicore-rest 1.6): single quotes, bare keys and trailing commas
 * pass. @throws {@link RequestError} `BAD_REQUEST` also for numbers that lose digits and for deep nesting
 */
export function parseLenientJson(text: string): object {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    try {
      value = json5.parse(text);
    } catch (cause) {
      throw new RequestError('BAD_REQUEST', `malformed JSON: ${errorText(cause)}`, {}, { cause });
    }
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new RequestError('BAD_REQUEST', 'expected a JSON object');
  refuseExtremes(value, 0);
  return value;
}

function refuseExtremes(value: unknown, depth: number): void {
  if (depth > deepest)
    throw new RequestError('BAD_REQUEST', `JSON is deeper than ${deepest} levels`);
  if (typeof value === 'number' && !(Math.abs(value) <= Number.MAX_SAFE_INTEGER))
    throw new RequestError('BAD_REQUEST', `number out of range: ${value}`);
  if (typeof value !== 'object' || value === null) return;
  for (const member of Object.values(value)) refuseExtremes(member, depth + 1);
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
