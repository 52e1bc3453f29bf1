import { StagingError } from './errors.js';
import { below, expand } from './expand.js';
import { httpSource } from './http.js';
import { receiveAll, receiveOne, type ListedSource } from './receive-files.js';
import type { SourceFile } from './receive.js';
import { localFiles, sendAll, type LocalFile } from './send.js';
import { exportToSite, importFromSite } from './site-copy.js';
import { baseName, type ExportTransfer, type ImportTransfer, type Protocol } from './transfer.js';
import {
  decode,
  parseUnicoreUrl,
  UnicoreClient,
  type RemoteFile,
  type UnicoreUrl,
} from './unicore-client.js';
import { hasWildcard } from './wildcard.js';

/** Storages of UNICORE sites, ours among them: files, directories, patterns. */
export const unicore: Protocol = {
  async import(transfer) {
    const url = parse(transfer.entry.from, 'From');
    const { ownerDn } = transfer.job;
    const ours = await transfer.storages.find(url.base, url.storageId, ownerDn, 'read');
    if (ours) {
      await importFromSite(transfer, ours, url.path, decode);
      return;
    }
    const client = new UnicoreClient(transfer, url);
    const found = await expand(client, url.path, decode);
    if ('one' in found) {
      const source = toSource(transfer, client, found.one);
      await receiveOne(transfer, found.one.path, source);
      return;
    }
    const sources = found.entries.map((file): ListedSource => {
      const path = below(found.base, file);
      return file.isDirectory
        ? { path, isDirectory: true }
        : { path, isDirectory: false, file: toSource(transfer, client, file) };
    });
    await receiveAll(transfer, sources);
  },

  async export(transfer) {
    const url = parse(transfer.entry.to, 'To');
    if (url.path.some(hasWildcard))
      throw new StagingError('BAD_REQUEST', 'To must not have wildcards');
    const { ownerDn } = transfer.job;
    const ours = await transfer.storages.find(url.base, url.storageId, ownerDn, 'write');
    if (ours) {
      await exportToSite(transfer, ours, url);
      return;
    }
    if (transfer.entry.mode === 'append')
      throw new StagingError('BAD_REQUEST', 'exports to storages of other sites cannot append');
    const client = new UnicoreClient(transfer, url);
    const files = await localFiles(transfer);
    await sendAll(transfer, files, {
      exists: async (file) => (await client.stat(targetOf(url, file))) !== undefined,
      put: (file) => put(transfer, client, file, targetOf(url, file)),
    });
  },
};

function parse(text: string, field: string): UnicoreUrl {
  const url = parseUnicoreUrl(text);
  if (url) return url;
  throw new StagingError(
    'BAD_REQUEST',
    `${field} must be https://…/rest/core/storages/<id>/files/<path> without ".."`,
  );
}

function toSource(transfer: ImportTransfer, client: UnicoreClient, file: RemoteFile): SourceFile {
  return httpSource(transfer, client.url(file.path), {
    authorize: client.authorize,
    headers: { accept: 'application/octet-stream' },
    permissions: file.permissions,
    version: `${file.sizeBytes} ${file.modified}`,
  });
}

function targetOf({ path, isDirectory }: UnicoreUrl, { below, path: local }: LocalFile): string {
  const name = below === '' && isDirectory ? baseName(local) : below;
  return [...path, ...(name === '' ? [] : [name])].join('/');
}

/** Under another name first: readers never see half a file. */
async function put(
  { job, id }: ExportTransfer,
  client: UnicoreClient,
  file: LocalFile,
  target: string,
): Promise<void> {
  const slash = target.lastIndexOf('/') + 1;
  const part = `${target.slice(0, slash)}.${target.slice(slash)}.UNICORE_${job.id}_${id}`;
  try {
    await client.upload(part, file.read(), file.sizeBytes);
    await client.chmod(part, file.permissions.replace(/[st]/g, 'x').replace(/[ST]/g, '-'));
    await client.rename(part, target);
  } catch (error) {
    if (error instanceof StagingError) await client.remove(part).catch(() => undefined);
    throw error;
  }
}
