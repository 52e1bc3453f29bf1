import { parse, type LiqeQuery } from 'liqe';
import { errorText, GridError } from '#kernel/errors.js';

/** What is searched: the path, `resourceName`, and the metadata of a file. */
export type SearchDocument = {
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
};
export type Matcher = (document: SearchDocument) => boolean;

const longestQuery = 256;

/**
 * A query in Lucene's syntax: terms with `*` and `?`, `"phrases"`, `field:term`, `AND OR NOT ( )`,
 * `field:>5`, `field:[1 TO 5]`. Two terms in a row must both match. A term without a field is looked for
 * in the name and in all metadata; case does not matter.
 * @throws `BAD_REQUEST`
 */
export function parseQuery(text: string): Matcher {
  if (text.trim() === '' || text.length > longestQuery)
    throw new GridError('BAD_REQUEST', `q: must have 1 to ${longestQuery} characters`);
  let query: LiqeQuery;
  try {
    query = parse(text);
  } catch (cause) {
    const reason = `q: cannot be understood: ${errorText(cause)}`;
    throw new GridError('BAD_REQUEST', reason, {}, { cause });
  }
  return toMatcher(query);
}

function toMatcher(query: LiqeQuery): Matcher {
  switch (query.type) {
    case 'EmptyExpression':
      throw new GridError('BAD_REQUEST', 'q: an empty part');
    case 'ParenthesizedExpression':
      return toMatcher(query.expression);
    case 'UnaryOperator': {
      const operand = toMatcher(query.operand);
      return (document) => !operand(document);
    }
    case 'LogicalExpression': {
      const [left, right] = [toMatcher(query.left), toMatcher(query.right)];
      return query.operator.operator === 'OR'
        ? (document) => left(document) || right(document)
        : (document) => left(document) && right(document);
    }
    case 'Tag': {
      const test = toTest(query);
      const field = query.field.type === 'Field' ? query.field.name : undefined;
      return (document) => valuesOf(document, field).some(test);
    }
  }
}

function valuesOf({ path, metadata }: SearchDocument, field: string | undefined): string[] {
  const name = path.slice(path.lastIndexOf('/') + 1);
  if (field === undefined) return [name, path, ...Object.values(metadata)];
  if (field === 'name') return [name];
  if (field === 'resourceName') return [path, name];
  return Object.hasOwn(metadata, field) ? [metadata[field] ?? ''] : [];
}

type Tag = Extract<LiqeQuery, { type: 'Tag' }>;
type Test = (value: string) => boolean;

const comparisons: Readonly<Record<string, (a: number, b: number) => boolean>> = {
  ':>': (a, b) => a > b,
  ':>=': (a, b) => a >= b,
  ':<': (a, b) => a < b,
  ':<=': (a, b) => a <= b,
};

function toTest({ expression, operator }: Tag): Test {
  if (expression.type === 'RegexExpression')
    throw new GridError('BAD_REQUEST', 'q: regular expressions are not supported');
  if (expression.type === 'EmptyExpression') throw new GridError('BAD_REQUEST', 'q: an empty part');
  if (expression.type === 'RangeExpression') {
    const { min, max, minInclusive, maxInclusive } = expression.range;
    return (value) =>
      (minInclusive ? Number(value) >= min : Number(value) > min) &&
      (maxInclusive ? Number(value) <= max : Number(value) < max);
  }
  const wanted = String(expression.value).toLowerCase();
  // the parser leaves the operator out where there is no field
  const compare = comparisons[(operator as Tag['operator'] | undefined)?.operator ?? ':'];
  if (compare) return (value) => compare(Number(value), Number(wanted));
  if (expression.quoted) return (value) => value.toLowerCase().includes(wanted);
  return (value) => [value, ...words(value)].some((text) => glob(wanted, text.toLowerCase()));
}

function words(value: string): string[] {
  return value.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
}

/** `*` any text, `?` any character. Goes back to the latest `*` only, so it cannot be made to take long. */
function glob(pattern: string, text: string): boolean {
  let [p, t, star, mark] = [0, 0, -1, 0];
  while (t < text.length) {
    if (pattern[p] === '*') {
      star = p++;
      mark = t;
    } else if (p < pattern.length && (pattern[p] === '?' || pattern[p] === text[t])) {
      p++;
      t++;
    } else if (star >= 0) {
      p = star + 1;
      t = ++mark;
    } else return false;
  }
  while (pattern[p] === '*') p++;
  return p === pattern.length;
}
