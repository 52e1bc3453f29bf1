import { createReadStream, createWriteStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename, join, posix } from 'node:path';
import { pipeline as chain } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { GridError } from '#kernel/errors.js';
import { printJson, printRows } from './print.js';
import { withProgress } from './progress.js';
import type { Session } from './profile.js';
import { parseRemotePath, requireRemotePath, type RemotePath } from './remote-path.js';

/** Of a file or directory, in the operations' records. */
export const filePath = '/storages/:storageId/files{/*path}';

/** Lists a directory, or shows a file. */
export async function listFiles(session: Session, text: string, asJson: boolean): Promise<void> {
  const remote = requireRemotePath(text);
  const { body } = await session.service.call('GET', filePath, remote);
  const { content, ...self } = body;
  const entries = content ?? { [remote.path]: self };
  if (asJson) {
    printJson(entries);
    return;
  }
  const rows = Object.entries(entries).map(([name, entry]) => ({
    permissions: `${entry.isDirectory ? 'd' : '-'}${entry.permissions}`,
    size: entry.size,
    modified: entry.lastAccessed,
    name,
  }));
  printRows(rows, ['permissions', 'size', 'modified', 'name'], false);
}

/** Writes a file to standard output. */
export async function showFile(session: Session, text: string, signal: AbortSignal): Promise<void> {
  const address = session.service.address(filePath, requireRemotePath(text));
  const { body } = await session.client.download(address, { signal });
  await pipeline(body, process.stdout, { signal, end: false });
}

/** Copies a file from here to a storage, or from a storage to here. */
export async function copyFile(
  session: Session,
  from: string,
  to: string,
  signal: AbortSignal,
): Promise<void> {
  const [source, target] = [parseRemotePath(from), parseRemotePath(to)];
  if (source && !target) await download(session, source, to, signal);
  else if (target && !source) await upload(session, from, target, signal);
  else
    throw new GridError(
      'BAD_REQUEST',
      'one of the two must be a path on this machine, the other one in a storage',
    );
}

/** A target that ends in `/` is a directory, and the name stays. */
export async function upload(
  { client, service }: Session,
  file: string,
  target: RemotePath,
  signal: AbortSignal,
): Promise<void> {
  const { size } = await stat(file);
  const path = target.path.endsWith('/') ? posix.join(target.path, basename(file)) : target.path;
  const progress = withProgress(basename(file), size);
  // what breaks the one breaks the other, and with it the upload
  const source = chain(createReadStream(file), progress, () => undefined);
  await client.upload('PUT', service.address(filePath, { ...target, path }), source, {
    sizeBytes: size,
    signal,
  });
}

export async function download(
  { client, service }: Session,
  source: RemotePath,
  target: string,
  signal: AbortSignal,
): Promise<void> {
  const name = posix.basename(source.path);
  const isDirectory = await stat(target).then(
    (found) => found.isDirectory(),
    () => false,
  );
  const { headers, body } = await client.download(service.address(filePath, source), { signal });
  const size = Number(headers['content-length'] ?? 0);
  const file = createWriteStream(isDirectory ? join(target, name) : target);
  await pipeline(body, withProgress(name, size), file, { signal });
}
