import { validateHeaderName, validateHeaderValue, type ServerResponse } from 'node:http';

/** What headers of an answer may be set on. */
export type HeaderSink = {
  setHeader(name: string, value: number | string | readonly string[]): unknown;
};

/**
 * Headers that an answer will have, whatever it will be, until there is one: written with it at once they cost half of
 * what they do one by one.
 */
export class AnswerHead implements HeaderSink {
  /** Name, value, name, value, … */
  readonly #list: string[] = [];

  get list(): string[] {
    return this.#list;
  }

  /** A later value takes the place of an earlier one. @throws `ERR_INVALID_CHAR` while it can still be another answer */
  setHeader(name: string, value: number | string | readonly string[]): void {
    const text = typeof value === 'object' ? value.join(', ') : String(value);
    validateHeaderName(name);
    validateHeaderValue(name, text);
    for (let at = 0; at < this.#list.length; at += 2) {
      const known = this.#list[at] ?? '';
      if (known.length !== name.length || known.toLowerCase() !== name.toLowerCase()) continue;
      this.#list[at + 1] = text;
      return;
    }
    this.#list.push(name, text);
  }

  /** For an answer that is not written at once. */
  setOn(response: ServerResponse): void {
    for (let at = 0; at + 1 < this.#list.length; at += 2)
      response.setHeader(this.#list[at] ?? '', this.#list[at + 1] ?? '');
  }
}
