import { TsiError } from './error.js';

/** One entry of `#TSI_LS` (§2.6). */
export type ListedFile = {
  readonly path: string;
  readonly isDirectory: boolean;
  readonly sizeBytes: number;
  /** ms since the epoch; the wire has seconds */
  readonly modifiedMs: number;
  /** nine characters, `rwxr-x---` */
  readonly permissions: string;
  readonly owner: string;
  readonly group: string;
  readonly ownedByCaller: boolean;
  /** what the caller may do: three characters, `rw-` */
  readonly access: string;
};

const entry = /^ ([D ])([R ])([W ])([X ])([O ]) (\d{1,16}) (-?\d{1,12}) (\/.*)$/;
const second = /^--([r-][w-][xsS-][r-][w-][xsS-][r-][w-][xtT-]) (\S+) (\S+)/;

export function encodeListing(files: Iterable<ListedFile>): string {
  const lines = ['START_LISTING'];
  for (const file of files) lines.push(encodeEntry(file), encodeOwner(file));
  lines.push('END_LISTING');
  return lines.join('\n');
}

function encodeEntry({ access, ...file }: ListedFile): string {
  const flags = [file.isDirectory, ...['r', 'w', 'x'].map((right) => access.includes(right))];
  const letters = [...flags, file.ownedByCaller].map((set, at) => (set ? 'DRWXO'[at] : ' '));
  const seconds = Math.floor(file.modifiedMs / 1_000);
  return ` ${letters.join('')} ${file.sizeBytes} ${seconds} ${oneLine(file.path)}`;
}

function encodeOwner({ permissions, owner, group }: ListedFile): string {
  return `--${permissions} ${owner} ${group}`;
}

/** Such names cannot be addressed anyway. */
function oneLine(path: string): string {
  return path.replaceAll(/[\r\n]/g, '?');
}

/** @throws {@link TsiError} `TSI_PROTOCOL`; `TSI_FAILED` where a stock TSI gave up in the middle */
export function decodeListing(payload: string): ListedFile[] {
  const files: ListedFile[] = [];
  const lines = payload.split('\n');
  if (lines[0] !== 'START_LISTING') malformed(lines[0]);
  for (let at = 1; lines[at] !== 'END_LISTING'; at += 1) {
    const text = lines[at] ?? malformed('no END_LISTING');
    if (text.startsWith('TSI_FAILED')) throw new TsiError('TSI_FAILED', text.slice(11).trim());
    if (text === '' || text === '<') continue;
    files.push(decodeEntry(text, lines[(at += 1)] ?? ''));
  }
  return files;
}

function decodeEntry(text: string, next: string): ListedFile {
  const [, dir, r, w, x, own, size, seconds, path] = entry.exec(text) ?? malformed(text);
  const [, permissions, owner, group] = second.exec(next) ?? malformed(next);
  if (!path || !permissions || !owner || !group) malformed(text);
  return {
    path,
    isDirectory: dir === 'D',
    sizeBytes: Number(size),
    modifiedMs: Number(seconds) * 1_000,
    permissions,
    owner,
    group,
    ownedByCaller: own === 'O',
    access: `${r === 'R' ? 'r' : '-'}${w === 'W' ? 'w' : '-'}${x === 'X' ? 'x' : '-'}`,
  };
}

function malformed(line: string | undefined): never {
  throw new TsiError('TSI_PROTOCOL', 'the TSI sends a listing that cannot be read', {
    line: line?.slice(0, 200),
  });
}
