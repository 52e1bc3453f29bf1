/** A version in pieces: numbers, and runs of letters. What else there is only separates. */
type Piece = number | string;

/** What comes before the version that it announces: `2.0-rc1` before `2.0`, but `2.0a` after it. */
const announces = /^(alpha|beta|dev|pre|preview|rc|snapshot)$/;

function piecesOf(version: string): Piece[] {
  return [...version.toLowerCase().matchAll(/\d+|[a-z]+/g)].map(([piece]) =>
    /^\d/.test(piece) ? Number(piece) : piece,
  );
}

/** Zeros that no number follows say nothing: `2.0-rc1` is `2-rc1`. */
function significant(version: string): Piece[] {
  const pieces = piecesOf(version);
  return pieces.filter((piece, at) => {
    const next = pieces.slice(at).find((each) => each !== 0);
    return piece !== 0 || typeof next === 'number';
  });
}

/** Announcements, the end, words, numbers: in this order, so that any two versions can be compared. */
function rank(piece: Piece | undefined): number {
  if (piece === undefined) return 1;
  if (typeof piece === 'number') return 3;
  return announces.test(piece) ? 0 : 2;
}

/** Negative when `a` is older. Numbers count by value, words by the alphabet; `2.1` and `2.1.0` are equal. */
export function compareVersions(a: string, b: string): number {
  const left = significant(a);
  const right = significant(b);
  for (let at = 0; at <= Math.min(left.length, right.length); at++) {
    const [x, y] = [left[at], right[at]];
    if (x === y) continue;
    const order = rank(x) - rank(y);
    if (order !== 0) return order;
    return x !== undefined && y !== undefined && x < y ? -1 : 1;
  }
  return 0;
}

/**
 * What a job may ask for instead of one version: `*`, `2.x`, `2.1.*`, or comparisons that must all hold,
 * by blanks or commas, `>=2.1 <3`.
 * @returns `undefined` if the text is no range
 */
export function parseVersionRange(text: string): ((version: string) => boolean) | undefined {
  const tests = text.split(/[\s,]+(?![\s,])/).filter((part) => part !== '');
  if (tests.length === 0) return undefined;
  const holds = joinOperators(tests).map(parseComparison);
  return holds.every((hold) => hold !== undefined)
    ? (version) => holds.every((hold) => hold(version))
    : undefined;
}

/** `>= 2.1` is written with a blank too. */
function joinOperators(parts: readonly string[]): string[] {
  return parts.reduce<string[]>((joined, part) => {
    const last = joined.at(-1);
    if (last !== undefined && /^[<>=]=?$/.test(last)) joined[joined.length - 1] = last + part;
    else joined.push(part);
    return joined;
  }, []);
}

function parseComparison(text: string): ((version: string) => boolean) | undefined {
  if (/^[x*]$/i.test(text)) return () => true;
  const [, prefix] = /^([A-Za-z0-9][A-Za-z0-9._+-]*)\.[xX*]$/.exec(text) ?? [];
  if (prefix !== undefined) return (version) => startsWith(version, prefix);
  const [, operator, bound] = /^(<=|>=|==?|<|>)([A-Za-z0-9][A-Za-z0-9._+-]*)$/.exec(text) ?? [];
  if (operator === undefined || bound === undefined) return undefined;
  return (version) => {
    const order = compareVersions(version, bound);
    if (order === 0) return operator.includes('=');
    return operator.startsWith(order < 0 ? '<' : '>');
  };
}

function startsWith(version: string, prefix: string): boolean {
  const pieces = piecesOf(version);
  return piecesOf(prefix).every((piece, at) => (pieces[at] ?? 0) === piece);
}
