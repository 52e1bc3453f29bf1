import { GridError } from '#kernel/errors.js';
import { quote } from '../incarnation/quote.js';
import {
  describedFile,
  scanLimits,
  type FileInfo,
  type FileListing,
  type Scan,
} from './file-space.js';

/*
 * What no command of a TSI does well: a page of a directory with very many entries, and a look at all
 * metadata of a tree. The programs are those that GNU and BusyBox have in common.
 */

/** Prints the count of a directory, then a page of it, sorted by bytes: `size mtime mode owner group ./name`. */
export function pageScript(absolutePath: string, offset: number, num: number): string {
  return [
    `cd -- ${quote(absolutePath)} || exit 1`,
    'export LC_ALL=C',
    // a line break in a name becomes \001, under which there is no file: such names drop out
    "find . -maxdepth 1 ! -name . ! -name '.?*.metadata' -print0 | tr '\\n\\0' '\\001\\n' | sort |",
    // the count comes before anything of the page, or it could land inside a line of that
    `  awk -v from=${offset} -v to=${offset + num} 'NR > from && NR <= to { page[NR] = $0 }`,
    '    END { print "total " NR > "/dev/stderr"; fflush("/dev/stderr")',
    "      for (at = from + 1; at <= to && at <= NR; at++) print page[at] }' |",
    "  tr '\\n' '\\0' | xargs -0 -r stat -L -c '%s %Y %A %U %G %n' -- 2>/dev/null",
    'exit 0',
  ].join('\n');
}

const pageLine =
  /^(\d+) (-?\d+) ([a-z-])([r-][w-][xsS-][r-][w-][xsS-][r-][w-][xtT-]) (\S+) (\S+) \.\/(.+)$/;

/** Names that hold line breaks or are not UTF-8 are left out, as in `#TSI_LS`. */
export function decodePage(output: string, directory: string, login: string): FileListing {
  const entries: FileInfo[] = [];
  let total: number | undefined;
  for (const line of output.split('\n')) {
    const count = /^total (\d+)$/.exec(line);
    if (count) total = Number(count[1]);
    const [, size, seconds, kind, permissions, owner, group, name] = pageLine.exec(line) ?? [];
    if (!permissions || !owner || !group || !name || name.includes('\uFFFD')) continue;
    entries.push({
      path: `${directory === '/' ? '' : directory}/${name}`,
      isDirectory: kind === 'd',
      sizeBytes: Number(size),
      modifiedMs: Number(seconds) * 1_000,
      permissions,
      owner,
      group,
      ownedByCaller: owner === login,
    });
  }
  if (total !== undefined) return { entries, total };
  throw new GridError('TSI_FAILED', 'the target system cannot list so large a directory', {
    output: output.slice(0, 200),
  });
}

/** Prints all names, one a line, then each metadata file: its name between \001 and \002, its text. */
export function scanScript(absoluteRoot: string): string {
  const { bytes, fileBytes } = scanLimits;
  return [
    `cd -- ${quote(absoluteRoot)} || exit 1`,
    'export LC_ALL=C',
    `find . -type f ! -name '.?*.metadata' -print 2>/dev/null | head -c ${bytes}`,
    "printf '\\001\\002\\n'",
    `find . -type f -name '.?*.metadata' -size -${fileBytes / 1024 + 1}k -exec ` +
      `awk 'FNR == 1 { printf "\\001%s\\002", FILENAME } { print }' {} + 2>/dev/null | head -c ${bytes}`,
    'exit 0',
  ].join('\n');
}

export function decodeScan(output: string): Scan {
  const [names = '', ...records] = output.split('\u0001');
  const files = names
    .split('\n')
    .filter((line) => line.startsWith('./') && !line.includes('\uFFFD'))
    .map((line) => line.slice(1));
  const metadata = new Map<string, string>();
  for (const record of records) {
    const [name = '', text] = record.split('\u0002', 2);
    const file = describedFile(name.slice(1));
    if (file !== undefined && text !== undefined) metadata.set(file, text);
  }
  const found = Buffer.byteLength(output);
  return {
    files,
    metadata,
    complete: Buffer.byteLength(names) < scanLimits.bytes && found < scanLimits.bytes,
  };
}
