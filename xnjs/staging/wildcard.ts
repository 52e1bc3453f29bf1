/** Whether a path or a part of one is a pattern: `*` any text within a name, `?` one character. */
export function hasWildcard(text: string): boolean {
  return /[*?]/.test(text);
}

const any = Symbol('*');
const one = Symbol('?');

/**
 * Whether a name fits a pattern. A leading dot must be in the pattern, as for a shell. Not by a regular
 * expression: one with many stars takes ages for a name that nearly fits.
 * @param decode of what is between the wildcards
 */
export function matcher(
  pattern: string,
  decode: (text: string) => string = (text) => text,
): (name: string) => boolean {
  const tokens = pattern.split(/([*?])/).flatMap((part): (string | symbol)[] => {
    if (part === '*') return [any];
    return part === '?' ? [one] : charactersOf(decode(part));
  });
  const hidden = pattern.startsWith('.');
  return (name) => (hidden || !name.startsWith('.')) && fits(tokens, charactersOf(name));
}

/** Code points: what `?` stands for. */
function charactersOf(text: string): string[] {
  return Array.from(text);
}

function fits(tokens: readonly (string | symbol)[], name: readonly string[]): boolean {
  let token = 0;
  let star = -1; // the last one, which takes a character more whenever the rest does not fit
  let starAt = 0;
  for (let at = 0; at < name.length;) {
    if (tokens[token] === any) {
      star = token++;
      starAt = at;
    } else if (tokens[token] === one || tokens[token] === name[at]) {
      token++;
      at++;
    } else if (star >= 0) {
      token = star + 1;
      at = ++starAt;
    } else return false;
  }
  while (tokens[token] === any) token++;
  return token === tokens.length;
}
