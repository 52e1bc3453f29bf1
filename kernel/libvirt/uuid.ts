import { protocolError } from './errors.js';
import type { Codec } from './xdr.js';

const textLength = 36;
const hyphen = '-'.charCodeAt(0);
const hyphens: ReadonlySet<number> = new Set([8, 13, 18, 23]);
const digits = Buffer.from('0123456789abcdef');
/** By code; of what is no digit -1. */
const values = Array.from({ length: 128 }, (_, code) =>
  '0123456789abcdef'.indexOf(String.fromCharCode(code).toLowerCase()),
);
/** Written again and again, but for its hyphens. */
const text = Buffer.alloc(textLength, '-');

/**
 * 16 bytes on the wire, `8d0e…-…` here, so that handles are plain values that compare. Digit by digit, into one piece
 * of memory: thousands a second are asked for and come.
 */
export const uuid: Codec<string> = {
  write(to, value) {
    if (value.length !== textLength) throw noUuid(value);
    let word = 0;
    let count = 0;
    for (let at = 0; at < textLength; at += 1) {
      const code = value.charCodeAt(at);
      if (hyphens.has(at)) {
        if (code !== hyphen) throw noUuid(value);
        continue;
      }
      const digit = values[code] ?? -1;
      if (digit < 0) throw noUuid(value);
      word = (word << 4) | digit;
      count += 1;
      if (count % 8 === 0) to.int32(word);
    }
  },
  read(from) {
    let word = 0;
    let count = 0;
    for (let at = 0; at < textLength; at += 1) {
      if (hyphens.has(at)) continue;
      if (count % 8 === 0) word = from.int32();
      text[at] = digits[word >>> 28] ?? 0;
      word <<= 4;
      count += 1;
    }
    return text.toString('latin1');
  },
};

function noUuid(value: string): Error {
  return protocolError('not a UUID', { value: value.slice(0, 64) });
}
