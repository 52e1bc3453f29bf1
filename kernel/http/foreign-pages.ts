import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { mediaTypeOf } from './media-type.js';

type Asked = Pick<IncomingMessage, 'method' | 'headers'>;

const harmless = new Set(['GET', 'HEAD', 'OPTIONS']);
/** What forms are sent as: no program that knows this interface does. */
const formTypes = new Set([
  'application/x-www-form-urlencoded',
  'multipart/form-data',
  'text/plain',
]);

/**
 * Browsers send their user's certificate, and a password that they remember, with what any page in the world makes
 * them send. They also say whose page it was; programs say nothing (ADR 44).
 * @param own address of this service as the client sees it
 * @returns whose page has sent a request that changes something; `undefined`: a program, or a page from `own`
 */
export function foreignPageOf({ method = '', headers }: Asked, own: string): string | undefined {
  const { origin, 'sec-fetch-site': relation } = headers;
  if ((origin === undefined && relation === undefined) || harmless.has(method)) return undefined;
  const isOurs = relation === 'same-origin';
  if (origin === undefined) return isOurs || relation === 'none' ? undefined : 'another site';
  // also of our own pages, which ask browsers not to give their address away
  if (origin === 'null') return isOurs ? undefined : 'an unknown origin';
  const saysOtherwise = relation !== undefined && !isOurs && relation !== 'none';
  return origin === originOf(own) && !saysOtherwise ? undefined : origin;
}

/**
 * Whether browsers ask the server first before they let a page of another origin send this. They then leave out what
 * identifies their user, unless the server allows that (`Access-Control-Allow-Credentials`).
 */
export function isAskedFirst({ method, headers }: Asked): boolean {
  if (method !== 'POST') return true;
  const type = headers['content-type'];
  if (type !== undefined && !isFormType(headers)) return true;
  // browsers add a remembered password by themselves, but no token
  return /^bearer /i.test(headers.authorization ?? '');
}

/** Whether a form may have sent this, be it without fields. */
export function isFormType(headers: IncomingHttpHeaders): boolean {
  return formTypes.has(mediaTypeOf(headers) ?? '');
}

function originOf(url: string): string | undefined {
  return URL.canParse(url) ? new URL(url).origin : undefined;
}
