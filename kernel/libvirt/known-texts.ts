/** A power of two; names of figures are some dozens. */
const slots = 1_024;
const longest = 64;

/**
 * Short texts of which the same come again and again: each is made once, as figures of machines have tens of
 * thousands of names a second. One that comes takes the place of another now and then; none is ever wrong.
 */
export class KnownTexts {
  readonly #texts = new Array<string | undefined>(slots).fill(undefined);

  /** UTF-8. */
  read(bytes: Buffer, at: number, size: number): string {
    if (size > longest) return bytes.toString('utf8', at, at + size);
    let hash = size;
    for (let n = 0; n < size; n += 1) hash = (Math.imul(hash, 31) + (bytes[at + n] ?? 0)) | 0;
    const slot = hash & (slots - 1);
    const known = this.#texts[slot];
    if (known !== undefined && isSame(known, bytes, at, size)) return known;
    return (this.#texts[slot] = bytes.toString('utf8', at, at + size));
  }
}

/** Of others than ASCII never: these have fewer characters than bytes. */
function isSame(text: string, bytes: Buffer, at: number, size: number): boolean {
  if (text.length !== size) return false;
  for (let n = 0; n < size; n += 1) if (text.charCodeAt(n) !== bytes[at + n]) return false;
  return true;
}
