import { TsiError } from './error.js';
import { terminator } from './framing.js';

/**
 * How one value is written into a header line and read from it. `read` gives `undefined` for what the
 * protocol treats as not given. Both refuse by {@link TsiError} `TSI_PROTOCOL`.
 */
export type Scalar<T> = { write(value: T): string; read(text: string): T | undefined };

export function refuse(message: string, details: Record<string, unknown> = {}): never {
  throw new TsiError('TSI_PROTOCOL', message, details);
}

/** No escape exists for these, so text from outside that holds them does not go on the wire at all. */
const frameWords = [terminator, '#TSI_IDENTITY'];

/** Text of many lines: a script. @throws {@link TsiError} `TSI_PROTOCOL` */
export function checkText(text: string): string {
  const word = frameWords.find((candidate) => text.includes(candidate));
  if (word !== undefined) refuse(`text for the TSI must not contain ${word}`);
  if (text.includes('\0')) refuse('text for the TSI must not contain NUL');
  return text;
}

function checkLine(text: string): string {
  if (/[\r\n]/.test(text)) refuse('a value for the TSI must be one line');
  if (text === '') refuse('a value for the TSI must not be empty');
  return checkText(text);
}

/** One line of text. */
export const line: Scalar<string> = { write: checkLine, read: (text) => text };

/** One line; `NONE` on the wire means that nothing was given. */
export const lineOrNone: Scalar<string> = {
  write: checkLine,
  read: (text) => (text === 'NONE' ? undefined : text),
};

function checkPath(path: string): string {
  if (!path.startsWith('/')) refuse('a path for the TSI must be absolute', { path });
  return checkLine(path);
}

/** An absolute path. What is read may begin with `$HOME` as well: UNICORE/X sends such paths. */
export const path: Scalar<string> = {
  write: checkPath,
  read: (text) => (/^[/$]/.test(text) ? text : refuse('the path is not absolute')),
};

/** `#TSI_FILE` of PUTFILECHUNK: the path, a blank, the octal mode after the last blank. */
export const pathAndMode: Scalar<{ path: string; mode: number }> = {
  write: ({ path: name, mode }) => `${checkPath(name)} ${octal.write(mode)}`,
  read: (text) => {
    const at = text.lastIndexOf(' ');
    const mode = octal.read(text.slice(at + 1));
    const name = at < 0 ? undefined : path.read(text.slice(0, at));
    if (name === undefined || mode === undefined) refuse('not a path and a mode');
    return { path: name, mode };
  },
};

/** Permission bits, without set-uid, set-gid and sticky. */
export const octal: Scalar<number> = {
  write: (mode) =>
    Number.isInteger(mode) && mode >= 0 && mode <= 0o777
      ? mode.toString(8)
      : refuse('not permission bits'),
  read: (text) => (/^[0-7]{1,4}$/.test(text) ? Number.parseInt(text, 8) & 0o777 : undefined),
};

/** A number of 0 or more. Anything else on the wire, also `-1`, means that none was given (§2.1). */
export const count: Scalar<number> = {
  write: (value) =>
    Number.isSafeInteger(value) && value >= 0 ? String(value) : refuse('not a number of 0 or more'),
  read: (text) => {
    const value = text.trim() === '' ? Number.NaN : Math.trunc(Number(text));
    return Number.isSafeInteger(value) && value >= 0 ? value : undefined;
  },
};

/** `true`, or nothing. */
export const flag: Scalar<boolean> = {
  write: String,
  read: (text) => text === 'true' || undefined,
};

/** One of a few words. */
export function oneOf<const Word extends string>(...words: Word[]): Scalar<Word> {
  return {
    write: (word) => word,
    read: (text) =>
      words.find((word) => word === text) ?? refuse(`must be one of ${words.join(' ')}`),
  };
}
