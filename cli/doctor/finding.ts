import { errorText } from '#kernel/errors.js';

/** `remedy` says what to do, in words that can be followed. */
export type Finding =
  | { readonly state: 'good'; readonly text: string }
  | { readonly state: 'doubtful' | 'bad'; readonly text: string; readonly remedy: string };

type Fault = Exclude<Finding, { state: 'good' }>;

export const good = (text: string): Finding => ({ state: 'good', text });
export const bad = (text: string, remedy: string): Fault => ({ state: 'bad', text, remedy });
export const doubtful = (text: string, remedy: string): Fault => ({
  state: 'doubtful',
  text,
  remedy,
});

/** Of what could not be looked at. @param remedy where the error is none of a file's */
export function unseen(error: unknown, remedy: string): Fault {
  const { code, path } = (error ?? {}) as { code?: unknown; path?: unknown };
  const text = errorText(error);
  if (typeof path !== 'string') return bad(text, remedy);
  if (code === 'ENOENT') return bad(text, `put ${path} there, or correct its path`);
  if (code === 'EACCES' || code === 'EPERM')
    return bad(text, `run vsite as the user who owns ${path}, or let its user read it`);
  return bad(text, remedy);
}

/** All that is wrong with several things of a kind, as one; `text` where nothing is. */
export function together(findings: readonly Finding[], text: string): Finding {
  const faults = findings.filter((each): each is Fault => each.state !== 'good');
  if (faults.length === 0) return good(text);
  const state = faults.some((each) => each.state === 'bad') ? 'bad' : 'doubtful';
  const all = (part: 'text' | 'remedy'): string =>
    [...new Set(faults.map((each) => each[part]))].join('; ');
  return { state, text: all('text'), remedy: all('remedy') };
}
