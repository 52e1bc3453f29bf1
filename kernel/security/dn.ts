import type { X509Certificate } from 'node:crypto';
import { GridError } from '#kernel/errors.js';
import { BoundedMap } from './bounded-map.js';

export class DnError extends GridError<'BAD_REQUEST'> {}

export type DnAttribute = { readonly type: string; readonly value: string };
/** Relative names, most specific first as RFC 2253 writes them; each has one attribute or several. */
export type Dn = readonly (readonly DnAttribute[])[];

/** Names of attribute types that RFC 2253, Java and OpenSSL agree on. Others stay dotted numbers. */
export const attributeOids: Readonly<Record<string, string>> = {
  CN: '2.5.4.3',
  SN: '2.5.4.4',
  SERIALNUMBER: '2.5.4.5',
  C: '2.5.4.6',
  L: '2.5.4.7',
  ST: '2.5.4.8',
  STREET: '2.5.4.9',
  O: '2.5.4.10',
  OU: '2.5.4.11',
  DC: '0.9.2342.19200300.100.1.25',
  UID: '0.9.2342.19200300.100.1.1',
  EMAILADDRESS: '1.2.840.113549.1.9.1',
};
const aliases: Readonly<Record<string, string>> = {
  E: 'EMAILADDRESS',
  EMAIL: 'EMAILADDRESS',
  S: 'ST',
  ...Object.fromEntries(Object.entries(attributeOids).map(([name, oid]) => [oid, name])),
};

const typePattern = /[ \t\r\n]*(?:oid\.)?([a-z][a-z0-9-]*|\d+(?:\.\d+)+)[ \t\r\n]*=[ \t\r\n]*/iy;
const quotedPattern = /"((?:[^"\\]|\\.)*)"[ \t\r\n]*/sy;
const plainPattern = /(?:[^\\,;+"]|\\.)*/sy;
const longestDn = 4096;

/**
 * Reads RFC 2253, with the tolerance that it asks for: blanks around separators, `;`, quoted values,
 * lower-case and `OID.` types. @throws {@link DnError} `BAD_REQUEST`
 */
export function parseDn(text: string): Dn {
  if (text.length > longestDn) throw unreadable(text.slice(0, 80));
  const dn: DnAttribute[][] = [];
  let rdn: DnAttribute[] = [];
  for (let at = 0; ; at++) {
    const type = matchAt(typePattern, text, at);
    if (type?.[1] === undefined) throw unreadable(text);
    const [value, end] = readValue(text, at + type[0].length);
    rdn.push({ type: canonicalType(type[1]), value });
    at = end;
    const separator = text[at];
    if (separator === '+') continue;
    dn.push(rdn);
    rdn = [];
    if (separator === undefined) return dn;
  }
}

/** Reads the value that starts at `at`; the second part is where it ends, before the separator. */
function readValue(text: string, at: number): [string, number] {
  const quoted = matchAt(quotedPattern, text, at);
  const raw = quoted ?? matchAt(plainPattern, text, at);
  const end = at + (raw?.[0].length ?? 0);
  if (!raw || (end < text.length && !',;+'.includes(text.charAt(end)))) throw unreadable(text);
  return [unescape(quoted ? (quoted[1] ?? '') : trimBlanks(raw[0])), end];
}

/** Cuts blanks at the end, except the one that a backslash keeps. */
function trimBlanks(raw: string): string {
  const trimmed = raw.replace(/[ \t\r\n]+$/, '');
  const backslashes = /\\*$/.exec(trimmed)?.[0].length ?? 0;
  return backslashes % 2 === 0 ? trimmed : raw.slice(0, trimmed.length + 1);
}

function unescape(raw: string): string {
  return raw.replace(
    /((?:\\[0-9a-f]{2})+)|\\(.)/gis,
    (_, octets: string | undefined, character: string) =>
      octets === undefined
        ? character
        : Buffer.from(octets.replaceAll('\\', ''), 'hex').toString('utf8'),
  );
}

function matchAt(pattern: RegExp, text: string, at: number): RegExpExecArray | null {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

function canonicalType(type: string): string {
  const name = type.toUpperCase();
  return aliases[name] ?? name;
}

function unreadable(text: string): DnError {
  return new DnError('BAD_REQUEST', 'not a distinguished name', { text: text.slice(0, 200) });
}

/**
 * Writes RFC 2253 without blanks after separators: the form of every DN that leaves this module, so
 * that owners can be compared as strings. With `ascii` everything else becomes octets (for headers).
 */
export function formatDn(dn: Dn, { ascii = false } = {}): string {
  return dn
    .map((rdn) => rdn.map(({ type, value }) => `${type}=${escapeValue(value, ascii)}`).join('+'))
    .join(',');
}

function escapeValue(value: string, ascii: boolean): string {
  const escaped = value
    .replace(/^[# ]| $|[,+"\\<>;]/g, '\\$&')
    // eslint-disable-next-line no-control-regex -- control characters are what has to go
    .replace(/[\0-\x1f\x7f]/g, octets);
  return ascii ? escaped.replace(/[^\x20-\x7e]+/g, octets) : escaped;
}

function octets(text: string): string {
  return Buffer.from(text, 'utf8').toString('hex').toUpperCase().replace(/../g, '\\$&');
}

/** The one spelling of a DN: `cn=Demo User , o=VSite` becomes `CN=Demo User,O=VSite`. */
export function normalizeDn(text: string): string {
  return formatDn(parseDn(text));
}

/** Of those who come again and again. */
const knownKeys = new BoundedMap<string, string>(1_000);

/** Equal keys mean equal names: ignores case, repeated blanks and the order inside a relative name. */
export function dnKey(dn: Dn | string): string {
  if (typeof dn !== 'string') return keyOf(dn);
  let key = knownKeys.get(dn);
  if (key === undefined) {
    key = keyOf(parseDn(dn));
    knownKeys.set(dn, key);
  }
  return key;
}

function keyOf(dn: Dn): string {
  return dn
    .map((rdn) =>
      rdn
        .map(({ type, value }) => `${type}=${escapeValue(foldValue(value), false)}`)
        .sort()
        .join('+'),
    )
    .join(',');
}

function foldValue(value: string): string {
  return value.normalize('NFC').trim().replace(/\s+/g, ' ').toLowerCase();
}

export function equalDns(a: Dn | string, b: Dn | string): boolean {
  return dnKey(a) === dnKey(b);
}

/** The subject of a certificate. */
export function subjectDn(certificate: X509Certificate): Dn {
  return fromLines(certificate.subject);
}

/** Who has signed a certificate. */
export function issuerDn(certificate: X509Certificate): Dn {
  return fromLines(certificate.issuer);
}

/** Node lists a name most general first, a relative name per line. */
function fromLines(text: string): Dn {
  // Values come escaped as in RFC 2253, line breaks included, so a line is a whole relative name
  const lines = text.split('\n').reverse();
  return lines.flatMap((line) => parseDn(line));
}
