import { TsiError } from './error.js';

const seedPattern = /^[A-Za-z0-9+/]{86}==$/;

type TextsPattern = { readonly names: RegExp; readonly values: RegExp; readonly most: number };

/** A JSON object that came over the agent link. Each reader throws {@link TsiError} `TSI_PROTOCOL` naming the field. */
export class LinkMessage {
  readonly #what: string;
  readonly #fields: Readonly<Record<string, unknown>>;

  /** @param what for people: "the …" @param json or what was read from it */
  constructor(what: string, json: unknown) {
    this.#what = what;
    this.#fields = typeof json === 'string' ? this.#parse(json) : { ...(json as object) };
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

  /** What is itself a message, for who reads such. */
  part(name: string): object {
    const value = this.#fields[name];
    return typeof value === 'object' && value !== null ? value : this.#refuse(name);
  }

  /** Texts by name. */
  texts(name: string, { names, values, most }: TextsPattern): Record<string, string> {
    const found = this.#fields[name];
    if (typeof found !== 'object' || found === null || Array.isArray(found)) this.#refuse(name);
    const entries = Object.entries(found);
    const fit = ([key, value]: [string, unknown]): boolean =>
      names.test(key) && typeof value === 'string' && values.test(value);
    if (entries.length > most || !entries.every(fit)) this.#refuse(name);
    return Object.fromEntries(entries);
  }

  /** @param most of them */
  list(name: string, most: number): LinkMessage[] {
    const found = this.#fields[name];
    if (!Array.isArray(found) || found.length > most) this.#refuse(name);
    return found.map((each: unknown) => new LinkMessage(`${this.#what}'s ${name}`, each));
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
