import { RequestError } from './operation.js';

/** What ends a word without quotes, beside control characters. */
const word = /[^,:\]}/\\"[{;=#\p{Cc}]+/uy;
const blanks = /(?:\s+|\/\/[^\r\n]*|\/\*[^]*?\*\/)+/y;
const plainText = { '"': /[^"\\\0\r\n]*/y, "'": /[^'\\\0\r\n]*/y };
const number = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;
const literals: Readonly<Record<string, unknown>> = { true: true, false: false, null: null };
const escapes: Readonly<Record<string, string>> = {
  ...{ '"': '"', "'": "'", '\\': '\\', '/': '/' },
  ...{ b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' },
};

/**
 * JSON as UNICORE's parser takes it (unicore-rest 1.6): single quotes, keys and values without any, `;` as
 * separator, one at the end, comments, and whatever stands behind the closing brace. A key that is there
 * twice is an error.
 *
 * No library reads this: of those that are kept, some know no bare values or no `;`, the others mend what is
 * cut off, and half a request must not be done.
 * @throws {@link RequestError} `BAD_REQUEST` naming line and column
 */
export function readLenientJson(text: string, deepest: number): Record<string, unknown> {
  return new Reader(text, deepest).document();
}

class Reader {
  readonly #text: string;
  readonly #deepest: number;
  #at = 0;

  constructor(text: string, deepest: number) {
    this.#text = text;
    this.#deepest = deepest;
  }

  document(): Record<string, unknown> {
    this.#skip();
    if (this.#next !== '{') throw this.#error('expected a JSON object');
    return this.#object(1);
  }

  get #next(): string | undefined {
    return this.#text[this.#at];
  }

  #skip(): void {
    this.#match(blanks);
  }

  #match(pattern: RegExp): string {
    pattern.lastIndex = this.#at;
    const [found = ''] = pattern.exec(this.#text) ?? [];
    this.#at += found.length;
    return found;
  }

  #value(depth: number): unknown {
    const next = this.#next;
    if (next === '{') return this.#object(depth + 1);
    if (next === '[') return this.#array(depth + 1);
    if (next === '"' || next === "'") return this.#string(next);
    const text = this.#word('a value');
    if (number.test(text)) return Number(text);
    const name = text.toLowerCase();
    return Object.hasOwn(literals, name) ? literals[name] : text;
  }

  #word(expected: string): string {
    const text = this.#match(word).trim();
    if (text === '') throw this.#error(`expected ${expected}`);
    return text;
  }

  #object(depth: number): Record<string, unknown> {
    const members = new Map<string, unknown>();
    this.#list('}', depth, () => {
      const from = this.#at;
      const next = this.#next;
      const key = next === '"' || next === "'" ? this.#string(next) : this.#word('a key');
      if (members.has(key)) throw this.#error(`the key ${shown(key)} is there twice`, from);
      this.#skip();
      if (this.#next !== ':') throw this.#error(`expected ":" after ${shown(key)}`);
      this.#at++;
      this.#skip();
      members.set(key, this.#value(depth));
    });
    return Object.fromEntries(members); // makes a member of `__proto__`, too
  }

  #array(depth: number): unknown[] {
    const elements: unknown[] = [];
    this.#list(']', depth, () => elements.push(this.#value(depth)));
    return elements;
  }

  /** From the opening bracket to behind the closing one. */
  #list(end: '}' | ']', depth: number, readOne: () => void): void {
    if (depth > this.#deepest) throw this.#error(`deeper than ${this.#deepest} levels`);
    this.#at++;
    this.#skip();
    while (this.#next !== end) {
      readOne();
      this.#skip();
      if (this.#next === ',' || this.#next === ';') this.#at++;
      else if (this.#next !== end) throw this.#error(`expected "," or "${end}"`);
      this.#skip();
    }
    this.#at++;
  }

  #string(quote: '"' | "'"): string {
    this.#at++;
    for (let text = ''; ;) {
      text += this.#match(plainText[quote]);
      const next = this.#next;
      if (next !== '\\' && next !== quote) throw this.#error('a text without its end');
      this.#at++;
      if (next === quote) return text;
      text += this.#escape();
    }
  }

  /** What follows a backslash. */
  #escape(): string {
    const name = this.#next ?? '';
    const [, hex] = /^u([0-9a-fA-F]{4})/.exec(this.#text.slice(this.#at, this.#at + 5)) ?? [];
    if (hex === undefined && !Object.hasOwn(escapes, name))
      throw this.#error(`unknown escape ${shown(`\\${name}`)}`);
    this.#at += hex === undefined ? 1 : 5;
    return hex === undefined ? (escapes[name] ?? '') : String.fromCharCode(parseInt(hex, 16));
  }

  #error(reason: string, at = this.#at): RequestError {
    const before = this.#text.slice(0, at).split(/\r\n|\r|\n/);
    const column = (before.at(-1)?.length ?? 0) + 1;
    const end = at >= this.#text.length ? ', where the text ends' : '';
    const place = `line ${before.length}, column ${column}${end}`;
    return new RequestError('BAD_REQUEST', `malformed JSON: ${reason} (${place})`);
  }
}

function shown(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}…` : text);
}
