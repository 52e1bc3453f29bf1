/** A subject as node:tls gives it: values by attribute, several of one attribute as a list. */
export type Subject = Readonly<Record<string, string | readonly string[] | undefined>>;

/**
 * Whether each part of the wanted name occurs in the subject, in any order and beside others (§1.5).
 * A name without parts admits nobody.
 */
export function admitsName(wanted: string, subject: Subject): boolean {
  const parts = parseName(wanted);
  return (
    parts.length > 0 &&
    parts.every(([name, value]) => {
      const key = Object.keys(subject).find((known) => known.toUpperCase() === name.toUpperCase());
      return [key === undefined ? undefined : subject[key]].flat().includes(value);
    })
  );
}

/** Parts of a name between commas; a backslash takes the special meaning from what follows it. */
function parseName(text: string): (readonly [string, string])[] {
  return (text.match(/(?:\\.|[^,\\])+/g) ?? []).map((part) => {
    const at = part.indexOf('=');
    const value = part.slice(at + 1).trim();
    return [part.slice(0, Math.max(at, 0)).trim(), value.replaceAll(/\\(.)/g, '$1')] as const;
  });
}
