import { dnKey, parseDn } from './dn.js';

/** Whether a name fits; names and patterns are compared as names are, whatever their spelling. */
export type DnPattern = (dn: string) => boolean;

const anythingBefore = /^\s*\*\s*,/;

/**
 * `CN=*,O=Physics,C=EU`: a `*` stands for any text within one relative name, a `*,` in front for any
 * relative names. It never reaches over a comma, so that no name can be made to end like another.
 * @throws `BAD_REQUEST` for what is no name otherwise
 */
export function parseDnPattern(text: string): DnPattern {
  const open = anythingBefore.test(text);
  const wanted = relativeNames(text.replace(anythingBefore, '')).map(toExpression);
  return (dn) => {
    const names = relativeNames(dn);
    if (open ? names.length < wanted.length : names.length !== wanted.length) return false;
    const end = names.slice(names.length - wanted.length);
    return wanted.every((each, at) => each.test(end[at] ?? ''));
  };
}

export function isDnPattern(text: string): boolean {
  return text.includes('*');
}

function relativeNames(dn: string): string[] {
  return parseDn(dn).map((rdn) => dnKey([rdn]));
}

function toExpression(name: string): RegExp {
  const escaped = name
    .replace(/[.+?^${}()|[\]\\]/g, '\\$&')
    .replace(/\*+/g, String.raw`(?:[^+\\]|\\.)*`);
  return new RegExp(`^${escaped}$`, 's');
}
