/** How a user may refer to a node. */
export type NodeName = {
  readonly name: string;
  readonly categories?: readonly string[];
};

/**
 * UNICORE's rule for "Login node" (§1.7): the name, its beginning up to a dot, a pattern with `*` and `?`,
 * or `anything:category`. Case does not matter.
 */
export function matchesNode({ name, categories = [] }: NodeName, wish: string): boolean {
  const at = wish.indexOf(':');
  if (at >= 0) return categories.some((category) => fits(category, wish.slice(at + 1)));
  return fits(name, wish) || name.toLowerCase().startsWith(`${wish.toLowerCase()}.`);
}

/** No regular expression: a pattern is the user's, and may be made to take for ever. */
function fits(text: string, pattern: string): boolean {
  const [name, wanted] = [text.toLowerCase(), pattern.toLowerCase()];
  let [at, from] = [0, 0];
  let star: { readonly at: number; from: number } | undefined;
  while (at < name.length) {
    const symbol = wanted[from];
    if (symbol === '*') {
      star = { at, from };
      from += 1;
    } else if (symbol === '?' || symbol === name[at]) {
      at += 1;
      from += 1;
    } else if (star) {
      star = { at: star.at + 1, from: star.from };
      at = star.at;
      from = star.from + 1;
    } else return false;
  }
  return /^\**$/.test(wanted.slice(from));
}
