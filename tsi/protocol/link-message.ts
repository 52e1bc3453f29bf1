import { TsiError } from './error.js';

const seedPattern = /^[A-Za-z0-9+/]{86}==$/;

/** A JSON object that came over the agent link. Each reader throws {@link TsiError} `TSI_PROTOCOL` naming the field. */
export class LinkMessage {
  readonly #what: string;
  readonly #fields: Readonly<Record<string, unknown>>;

  /** @param what for people: "the …" */
  constructor(what: string, json: string) {
    this.#what = what;
    this.#fields = this.#parse(json);
  }

  has(name: string): boolean {
    return this.#fields[name] !== undefined;
  }

  text(name: string, pattern: RegExp): string {
    const value = this.#fields[name];
    return typeof value === 'string' && pattern.test(value) ? value : this.#refuse(name);
  }

  /** ms since the epoch */
  time(name: string): number {
    const value = this.#fields[name];
    return Number.isSafeInteger(value) && Number(value) > 0 ? Number(value) : this.#refuse(name);
  }

  /** 64 bytes, base64. */
  seed(name: string): string {
    return this.text(name, seedPattern);
  }

  /** @param absent what it is then; absent itself: the field has to be there */
  flag(name: string, absent?: boolean): boolean {
    const value = this.has(name) ? this.#fields[name] : absent;
    return typeof value === 'boolean' ? value : this.#refuse(name);
  }

  #parse(json: string): Record<string, unknown> {
    try {
      return { ...(JSON.parse(json) as object) };
    } catch {
      return this.#refuse('json');
    }
  }

  #refuse(name: string): never {
    const text = `the ${this.#what} cannot be read: ${name}`;
    throw new TsiError('TSI_PROTOCOL', text, { field: name });
  }
}
