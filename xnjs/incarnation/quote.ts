/**
 * What a value must not show a TSI, although it is only data: a TSI searches the whole message for its
 * own words, replaces `$HOME` and its like in the text, and reads a carriage return as a line end.
 */
const hazards =
  // eslint-disable-next-line no-control-regex -- control characters are what it is about
  /[\x01-\x09\x0b-\x1f\x7f\x85\u2028\u2029]|#(?=TSI_)|\$(?=HOME|LOGNAME|USER)|E(?=NDOFMESSAGE)/g;
const reference = /\\\$|\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})/g;

/**
 * One shell word (bash) that means exactly `text`, whatever is in it, and that no TSI mistakes for a
 * line of its protocol.
 * @throws TypeError for NUL, which no process can be given
 */
export function quote(text: string): string {
  if (text.includes('\0')) throw new TypeError('a shell word cannot hold NUL');
  if (text.search(hazards) < 0) return `'${text.replaceAll("'", "'\\''")}'`;
  return `$'${text.replace(/[\\']/g, '\\$&').replace(hazards, octal)}'`;
}

/**
 * One shell word in which `$NAME` and `${NAME}` stand for the variable at run time, without word
 * splitting; `\$` is a dollar sign. Everything else, command substitution too, is plain text.
 */
export function quoteExpanding(text: string): string {
  let word = '';
  let from = 0;
  const plain = (to: number): void => {
    if (to > from) word += quote(text.slice(from, to));
  };
  for (const match of text.matchAll(reference)) {
    plain(match.index);
    const name = match[1] ?? match[2];
    word += name === undefined ? "'$'" : `"\${${name}}"`;
    from = match.index + match[0].length;
  }
  plain(text.length);
  return word === '' ? "''" : word;
}

function octal(character: string): string {
  return [...Buffer.from(character)]
    .map((byte) => `\\${byte.toString(8).padStart(3, '0')}`)
    .join('');
}
