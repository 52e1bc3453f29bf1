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

/** `true` or `false`, in any case. */
export const yesOrNo: Scalar<boolean> = {
  write: String,
  read: (text) => ({ true: true, false: false })[text.toLowerCase()],
};

/** Members of a job array: `0-9`, as UNICORE/X writes it, or their number (§9, 22). */
export const arrayRange: Scalar<number> = {
  write: (size) => `0-${Number(count.write(size)) - 1}`,
  read: (text) => {
    const last = /^0-(\d{1,9})$/.exec(text.trim())?.[1];
    const size = last === undefined ? count.read(text) : Number(last) + 1;
    if (size === undefined && /^\d+-/.test(text)) refuse('an array must begin with 0');
    return size === 0 ? undefined : size;
  },
};

/** `#TSI_JOB_MODE`; whatever begins with `alloc` is that mode (§2.8). */
export const jobMode: Scalar<'raw' | 'allocate'> = {
  write: (mode) => mode,
  read: (text) => {
    if (text.startsWith('alloc')) return 'allocate';
    if (text === 'raw') return 'raw';
    return text === 'normal' ? undefined : refuse('the job mode is not known', { mode: text });
  },
};

/** One of a few words. */
export function oneOf<const Word extends string>(...words: Word[]): Scalar<Word> {
  return {
    write: (word) => word,
    read: (text) =>
      words.find((word) => word === text) ?? refuse(`must be one of ${words.join(' ')}`),
  };
}
