import { git } from './git.js';
import { http } from './http.js';
import { file, inline, link } from './local.js';
import { s3 } from './s3.js';
import type { Protocol } from './transfer.js';
import { unicore } from './unicore.js';
import { parseUnicoreUrl } from './unicore-client.js';

/** By scheme. URLs of UNICORE storages begin with http or https, or with `BFT:`. */
const protocols: ReadonlyMap<string, Protocol> = new Map([
  ['inline', inline],
  ['file', file],
  ['link', link],
  ['http', http],
  ['https', http],
  ['bft', unicore],
  ['s3', s3],
  ['git', git],
  ['git+http', git],
  ['git+https', git],
]);

export function schemeOf(url: string): string | undefined {
  return /^([A-Za-z][A-Za-z0-9+.-]*):/.exec(url)?.[1];
}

/** @returns `undefined`: no such protocol is offered */
export function protocolOf(url: string): Protocol | undefined {
  const scheme = schemeOf(url)?.toLowerCase();
  if (scheme === undefined) return undefined;
  return parseUnicoreUrl(url) ? unicore : protocols.get(scheme);
}

/** By scheme, for those who asked for another. */
export function protocolsOffered(): readonly string[] {
  return [...protocols.keys()].map((scheme) => (scheme === 'bft' ? 'BFT' : scheme));
}
