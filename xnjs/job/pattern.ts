import { RE2JS } from 're2js';

/** A user's regular expression; matched in linear time, whatever it is. */
export function isPattern(pattern: string): boolean {
  try {
    RE2JS.compile(pattern);
    return true;
  } catch {
    return false;
  }
}

/** Whether the whole text is what the pattern says. */
export function matchesPattern(pattern: string, text: string): boolean {
  return RE2JS.matches(pattern, text);
}
