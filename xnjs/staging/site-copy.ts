import { quote } from '../incarnation/quote.js';
import { runInBackground } from './background.js';
import { below, expand } from './expand.js';
import type { FileInfo, FileSpace } from '../files/file-space.js';
import { absolute, moveIntoPlace, partOf, run } from './on-target.js';
import { receiveAll, receiveOne, type ListedSource } from './receive-files.js';
import type { SourceFile } from './receive.js';
import { StagingError } from './errors.js';
import { existsAlready, localFiles, sendAll, type LocalFile } from './send.js';
import type { SiteStorage } from './site-storages.js';
import { namesOf, treeOf } from './space-tree.js';
import { baseName, type ExportTransfer, type ImportTransfer } from './transfer.js';
import type { UnicoreUrl } from './unicore-client.js';
import { hasWildcard } from './wildcard.js';
import { normalisePath } from '../files/path.js';

/** From a storage of this site: within a target system it copies there, between two of them it streams. */
export async function importFromSite(
  transfer: ImportTransfer,
  source: SiteStorage,
  path: readonly string[],
  decodeNames?: (text: string) => string,
): Promise<void> {
  const { entry, site } = transfer;
  const here =
    source.target !== undefined && source.target.id === site.target?.id && entry.mode !== 'append';
  const wholes =
    path.every((name) => !hasWildcard(name)) && entry.parameters['checksum'] === undefined;
  if (here && wholes && entry.mode === 'overwrite') {
    await copyHere(transfer, source, path);
    return;
  }
  const found = await expand(treeOf(source.files), path, decodeNames);
  if ('one' in found) {
    await receiveOne(transfer, found.one.path, toSource(transfer, source, found.one));
    return;
  }
  const sources = found.entries.map((file): ListedSource => {
    const name = below(found.base, file);
    return file.isDirectory
      ? { path: name, isDirectory: true }
      : { path: name, isDirectory: false, file: toSource(transfer, source, file) };
  });
  await receiveAll(transfer, sources);
}

/** To a storage of this site: what an import there would do, from the job's directory. */
export async function exportToSite(
  transfer: ExportTransfer,
  { target, files }: SiteStorage,
  url: UnicoreUrl,
): Promise<void> {
  if (!target) {
    await exportToServer(transfer, files, url);
    return;
  }
  const { entry, site, progress } = transfer;
  const from = normalisePath(entry.from);
  const to = `/${url.path.join('/')}${url.isDirectory ? '/' : ''}`;
  if (entry.mode === 'nooverwrite' && progress.of(to)?.created !== true) {
    const there = url.isDirectory && !hasWildcard(from) ? `${to}${baseName(from)}` : to;
    if ((await treeOf(files).stat(there)) !== undefined) throw existsAlready();
    await progress.note(to, { created: true });
  }
  const asImport: ImportTransfer = {
    ...transfer,
    site: { files, target, tsi: () => target.tsi() },
    entry: {
      ...entry,
      mode: entry.mode === 'nooverwrite' ? 'overwrite' : entry.mode,
      to,
      data: undefined,
      readOnly: false,
      permissions: undefined,
    },
  };
  await importFromSite(asImport, site, namesOf(from));
}

/** To files on this server, which replaces each of them as a whole. */
async function exportToServer(
  transfer: ExportTransfer,
  space: FileSpace,
  url: UnicoreUrl,
): Promise<void> {
  if (transfer.entry.mode === 'append')
    throw new StagingError('BAD_REQUEST', 'exports to storages on the server cannot append');
  const { signal } = transfer;
  const base = `/${url.path.join('/')}`;
  const targetOf = ({ path, below: inside }: LocalFile): string => {
    if (inside !== '') return `${base}/${inside}`;
    return url.isDirectory ? `${base}/${baseName(path)}` : base;
  };
  await sendAll(transfer, await localFiles(transfer), {
    exists: async (file) => (await treeOf(space).stat(targetOf(file))) !== undefined,
    put: async (file) => {
      await space.write(targetOf(file), file.read(), { signal });
    },
  });
}

async function copyHere(
  transfer: ImportTransfer,
  source: SiteStorage,
  path: readonly string[],
): Promise<void> {
  const found = await source.files.stat(`/${path.join('/')}`);
  const from = (await source.files.mountPoint()) + found.path.slice(1);
  const { entry, progress } = transfer;
  const to = normalisePath(entry.to.endsWith('/') ? `${entry.to}${baseName(from)}` : entry.to);
  if (!found.isDirectory) progress.began({ file: to, offset: 0, totalBytes: found.sizeBytes });
  await copyOnTarget(transfer, from);
  if (!found.isDirectory) await progress.complete(to, found.sizeBytes, false, 0);
}

/** Copies, or links, a file or directory of the target system, with the rights of the user there. */
export async function copyOnTarget(transfer: ImportTransfer, from: string): Promise<void> {
  const { entry, clock } = transfer;
  const inside = entry.to.endsWith('/') ? `${entry.to}${baseName(from)}` : entry.to;
  const to = await absolute(transfer, inside);
  if (entry.readOnly) {
    await linkOnTarget(transfer, from, to);
    return;
  }
  const part = await partOf(transfer);
  const [source, draft, place] = [quote(from), quote(part), quote(to)];
  const script = [
    `[ -e ${source} ] || { echo ${quote(`there is no ${from}`)}; exit 1; }`,
    // a directory may be there already: what is in it stays
    `if [ -d ${source} ]; then mkdir -p -- ${place} && cp -RT -- ${source} ${place}; exit; fi`,
    `rm -rf -- ${draft} && cp -- ${source} ${draft} || exit 1`,
    moveIntoPlace(part, to, entry.permissions),
  ];
  await runInBackground(transfer, script.join('\n'), clock);
}

export async function linkOnTarget(
  transfer: ImportTransfer,
  from: string,
  to: string,
): Promise<void> {
  const parent = quote(to.slice(0, Math.max(1, to.lastIndexOf('/'))));
  const [source, place] = [quote(from), quote(to)];
  const missing = quote(`there is no ${from}`);
  await run(
    transfer,
    `[ -e ${source} ] || { echo ${missing}; exit 1; }\nmkdir -p -- ${parent} && ln -sfT -- ${source} ${place}`,
  );
}

function toSource(
  { signal }: ImportTransfer,
  { files }: SiteStorage,
  { path, sizeBytes, modifiedMs, permissions }: FileInfo,
): SourceFile {
  const validator = `${sizeBytes} ${modifiedMs}`;
  return {
    permissions,
    open(from) {
      const offset = from?.validator === validator && from.offset <= sizeBytes ? from.offset : 0;
      const body = files.read(`/${path}`, { offset, length: sizeBytes - offset }, { signal });
      return Promise.resolve({ offset, body, totalBytes: sizeBytes, validator });
    },
  };
}
