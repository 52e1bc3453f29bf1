import { normalisePath } from '../files/path.js';
import { receive, type SourceFile } from './receive.js';
import { baseName, type ImportTransfer } from './transfer.js';

/** A file below what the URL names, by its path there; a directory that might be empty. */
export type ListedSource =
  | { readonly path: string; readonly isDirectory: false; readonly file: SourceFile }
  | { readonly path: string; readonly isDirectory: true };

/** @param name what the source is called, for a target that is a directory */
export async function receiveOne(
  transfer: ImportTransfer,
  name: string,
  file: SourceFile,
): Promise<void> {
  const { entry, progress, say } = transfer;
  const to = normalisePath(entry.to.endsWith('/') ? `${entry.to}${baseName(name)}` : entry.to);
  const bytes = await receive(transfer, to, file);
  if (bytes === undefined) say(`kept ${to.slice(1)}, which exists already`);
  else await progress.complete(to, bytes, false, 0);
}

/** Brings in what a directory or pattern stands for, one after the other, in the order of their names. */
export async function receiveAll(
  transfer: ImportTransfer,
  sources: readonly ListedSource[],
): Promise<void> {
  const { entry, site, progress, clock, say } = transfer;
  const base = normalisePath(entry.to);
  const done = progress.record.lastDone;
  const ordered = [...sources].sort((a, b) => (a.path < b.path ? -1 : 1));
  if (ordered.length === 0) await site.files.mkdir(base);
  for (const source of ordered) {
    const to = normalisePath(`${base}/${source.path}`);
    if (done !== undefined && to <= done) continue;
    if (source.isDirectory) await site.files.mkdir(to);
    else {
      const bytes = await receive(transfer, to, source.file);
      if (bytes === undefined) say(`kept ${to.slice(1)}, which exists already`);
      await progress.complete(to, bytes ?? 0, entry.mode === 'append', clock.now());
    }
  }
}
