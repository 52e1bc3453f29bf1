import { DOMParser } from '@xmldom/xmldom';
import { errorText, GridError } from '#kernel/errors.js';
import { childrenOf } from './read.js';

export class XmlError extends GridError<'BAD_REQUEST' | 'TOO_LARGE'> {}

export type XmlLimits = {
  readonly bytes: number;
  readonly depth: number;
  readonly elements: number;
  /** Of one element. */
  readonly attributes: number;
};

const defaultLimits: XmlLimits = {
  bytes: 1024 * 1024,
  depth: 64,
  elements: 20_000,
  attributes: 64,
};

/**
 * The one way from text to a document: well-formed XML with namespaces, without document type and so
 * without entities of its own, within limits that are checked before the parser sees the text.
 * @throws {@link XmlError} with the place and the reason
 */
export function parseXml(text: string, limits: Partial<XmlLimits> = {}): Document {
  const all = { ...defaultLimits, ...limits };
  if (Buffer.byteLength(text) > all.bytes)
    throw new XmlError('TOO_LARGE', `the XML document is larger than ${all.bytes} bytes`);
  const source = text.replace(/^\uFEFF/, '');
  checkExtent(source, all);
  const document = parse(source);
  // not to be trusted to be missing because a look at the text found none
  if (document.doctype) throw malformed('a document type is not allowed');
  checkPrefixes(document.documentElement);
  return document;
}

function parse(source: string): Document {
  let first: XmlError | undefined;
  const fail = (message: string): never => {
    const [, reason = message, line, column] =
      /^\[xmldom \w+\]\s*([^]*?)\s*@#\[line:(\d+),col:(\d+)\]$/.exec(message) ?? [];
    const place = line === undefined ? '' : ` (line ${line}, column ${column})`;
    throw (first ??= malformed(`${reason}${place}`));
  };
  let document: Document | undefined;
  try {
    const parser = new DOMParser({ locator: {}, errorHandler: fail });
    document = parser.parseFromString(source, 'text/xml');
  } catch (error) {
    throw first ?? malformed(errorText(error)); // the parser wraps what its handler throws
  }
  // the type does not say that there may be none
  const root = document.documentElement as Element | null;
  if (!root) throw malformed('there is no element');
  return document;
}

/** The parser lets prefixes pass that stand for nothing. */
function checkPrefixes(element: Element): void {
  const nodes: (Element | Attr)[] = [element, ...Array.from(element.attributes)];
  const unbound = nodes.find(({ prefix, namespaceURI }) => prefix && !namespaceURI);
  if (unbound) throw malformed(`the prefix of ${unbound.nodeName} stands for no namespace`);
  for (const child of childrenOf(element)) checkPrefixes(child);
}

/** One pass over the text: how deep, how many, and nothing of a document type. */
function checkExtent(text: string, limits: XmlLimits): void {
  // eslint-disable-next-line no-control-regex -- the characters that XML does not have
  if (/[\x00-\x08\x0b\x0c\x0e-\x1f]/.test(text)) throw malformed('a control character');
  let depth = 0;
  let elements = 0;
  let from = 0;
  for (let at = text.indexOf('<'); at >= 0; at = text.indexOf('<', from)) {
    checkText(text.slice(from, at), depth);
    const special = specials.find(([start]) => text.startsWith(start, at));
    if (special) {
      from = after(text, special[1], at + special[0].length);
    } else if (text.startsWith('<!', at)) {
      throw malformed('a document type is not allowed');
    } else if (text.startsWith('</', at)) {
      from = after(text, '>', at);
      depth--;
    } else {
      const tag = scanTag(text, at);
      if (tag.attributes > limits.attributes) throw tooMuch(`${limits.attributes} attributes`);
      if (++elements > limits.elements) throw tooMuch(`${limits.elements} elements`);
      if (depth >= limits.depth) throw tooMuch(`${limits.depth} levels`);
      if (!tag.isEmpty) depth++;
      from = tag.end;
    }
  }
  checkText(text.slice(from), depth);
}

const characterReference = /&(?:amp|lt|gt|quot|apos|#(\d{1,7})|#x([0-9a-fA-F]{1,6}));/g;

/** Text or a tag: what begins with & must mean something that may be there. */
function checkText(text: string, depth = 1): void {
  if (depth <= 0 && text.trim() !== '') throw malformed('text outside of the root element');
  if (!text.includes('&')) return;
  const rest = text.replace(characterReference, (whole, decimal?: string, hexadecimal?: string) => {
    const code = decimal ? Number(decimal) : hexadecimal ? Number.parseInt(hexadecimal, 16) : 0x20;
    if (!isCharacter(code)) throw malformed(`${whole} is no character of XML`);
    return '';
  });
  if (rest.includes('&')) throw malformed('an & that is no known reference');
}

function isCharacter(code: number): boolean {
  if (code < 0x20) return code === 9 || code === 10 || code === 13;
  return (
    (code < 0xd800 || code > 0xdfff) && code <= 0x10_ffff && code !== 0xfffe && code !== 0xffff
  );
}

const specials = [
  ['<!--', '-->'],
  ['<![CDATA[', ']]>'],
  ['<?', '?>'],
] as const;

function after(text: string, end: string, from: number): number {
  const at = text.indexOf(end, from);
  if (at < 0) throw malformed(`"${end}" is missing`);
  return at + end.length;
}

function scanTag(
  text: string,
  from: number,
): { end: number; attributes: number; isEmpty: boolean } {
  let attributes = 0;
  for (let at = from + 1; at < text.length; at++) {
    const character = text[at];
    if (character === '"' || character === "'") {
      const end = after(text, character, at + 1) - 1;
      const value = text.slice(at + 1, end);
      if (value.includes('<')) throw malformed('an attribute with <');
      checkText(value);
      at = end;
      attributes++;
    } else if (character === '>') return { end: at + 1, attributes, isEmpty: text[at - 1] === '/' };
  }
  throw malformed('a tag does not end');
}

function malformed(reason: string): XmlError {
  return new XmlError('BAD_REQUEST', `malformed XML: ${reason}`);
}

function tooMuch(limit: string): XmlError {
  return new XmlError('BAD_REQUEST', `the XML document has more than ${limit}`);
}
