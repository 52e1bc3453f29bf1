import type { Readable } from 'node:stream';
import { asGridError } from '#kernel/errors.js';
import { quote } from '../incarnation/quote.js';
import { digestOf, type Digest } from './digest.js';
import { PassingError } from './errors.js';
import { absolute, chmodMode, moveIntoPlace, partOf, run } from './on-target.js';
import { pour } from './pour.js';
import { receiveOnServer } from './receive-on-server.js';
import { targetOf } from './staging.js';
import type { ImportTransfer } from './transfer.js';

/** Bytes of a source from `offset` on. */
export type OpenSource = {
  /** Where `body` begins: where it was asked to, or 0 if the source cannot do that or has changed. */
  readonly offset: number;
  readonly body: Readable;
  /** Of the whole file. */
  readonly totalBytes?: number | undefined;
  /** Names this version of the content. Without, a broken transfer begins anew. */
  readonly validator?: string | undefined;
};

export type Resume = { readonly offset: number; readonly validator: string };

/** One file to be brought into the job's directory. */
export type SourceFile = {
  readonly permissions?: string | undefined;
  open(from: Resume | undefined): Promise<OpenSource>;
};

/**
 * Streams a source into a part file, from where a former try left it, checks it and moves it to its place.
 * Nothing is collected: what the target system does not take is not read.
 * @returns bytes that are now there; `undefined`: there was a file, which is to stay
 */
export async function receive(
  transfer: ImportTransfer,
  to: string,
  file: SourceFile,
): Promise<number | undefined> {
  const { entry, site, progress } = transfer;
  if (!site.target) return await receiveOnServer(transfer, to, file);
  const target = await absolute(transfer, to);
  if (entry.mode === 'nooverwrite' && (await sizeOf(transfer, target)) !== undefined)
    return undefined;
  if (entry.mode === 'append' && progress.of(to)?.appendFrom === undefined)
    await progress.note(to, { appendFrom: (await sizeOf(transfer, target)) ?? 0 });
  const part = await partOf(transfer);
  const source = await file.open(await resumable(transfer, to, part));
  source.body.on('error', () => undefined); // it is told by whoever reads
  try {
    progress.began({ file: to, ...source });
    if (source.validator !== progress.of(to)?.validator)
      await progress.note(to, { validator: source.validator });
    const digest = digestOf(entry.parameters['checksum']);
    if (digest && source.offset > 0) await digestPart(transfer, part, source.offset, digest);
    const { size } = await copy(transfer, part, source, digest);
    digest?.verify();
    const permissions = entry.permissions ?? file.permissions;
    const appendFrom = progress.of(to)?.appendFrom;
    const place =
      entry.mode === 'append'
        ? appendInPlace(part, target, appendFrom ?? 0, entry.permissions)
        : moveIntoPlace(part, target, permissions);
    await finish(transfer, part, size, place);
    return size;
  } catch (error) {
    if (asGridError(error)?.row.retry !== true && !transfer.signal.aborted)
      await run({ site, signal: transfer.signal }, `rm -f -- ${quote(part)}`).catch(
        () => undefined,
      );
    throw error;
  } finally {
    source.body.destroy();
  }
}

async function sizeOf({ site, signal }: ImportTransfer, path: string): Promise<number | undefined> {
  const [found] = await site.tsi().list(targetOf(site).identity, path, 'A', { signal });
  return found?.sizeBytes;
}

async function resumable(
  transfer: ImportTransfer,
  to: string,
  part: string,
): Promise<Resume | undefined> {
  const validator = transfer.progress.of(to)?.validator;
  if (validator === undefined) return undefined;
  const offset = (await sizeOf(transfer, part)) ?? 0;
  return offset > 0 ? { offset, validator } : undefined;
}

async function digestPart(
  { site, signal }: ImportTransfer,
  part: string,
  length: number,
  digest: Digest,
): Promise<void> {
  const { identity } = targetOf(site);
  const bytes = site.tsi().read(identity, part, { length }, { signal }) as AsyncIterable<Buffer>;
  for await (const chunk of bytes) digest.update(chunk);
}

/** @returns size of the part */
async function copy(
  transfer: ImportTransfer,
  part: string,
  source: OpenSource,
  digest: Digest | undefined,
): Promise<{ size: number }> {
  const { site, signal } = transfer;
  const mode = 0o666 & ~Number.parseInt(site.files.umask, 8);
  const how = { mode, append: source.offset > 0 };
  const { identity } = targetOf(site);
  return await pour(transfer, source, digest, (bytes) =>
    site.tsi().write(identity, part, bytes, how, { signal }),
  );
}

async function finish(
  transfer: ImportTransfer,
  part: string,
  size: number,
  place: string,
): Promise<void> {
  // not by `wc`: busybox counts with 32 bits
  if ((await sizeOf(transfer, part)) !== size) {
    await run(transfer, `rm -f -- ${quote(part)}`);
    throw new PassingError('the target system has not stored what was sent');
  }
  await run(transfer, place);
}

/** May be done again: the file is first cut to what it was. */
function appendInPlace(
  part: string,
  target: string,
  fromBytes: number,
  permissions: string | undefined,
): string {
  const [from, to] = [quote(part), quote(target)];
  const parent = quote(target.slice(0, Math.max(1, target.lastIndexOf('/'))));
  return [
    `mkdir -p -- ${parent} && : >> ${to} && truncate -s ${fromBytes} -- ${to} || exit 1`,
    `cat -- ${from} >> ${to} || exit 1`,
    ...(permissions === undefined ? [] : [`chmod ${chmodMode(permissions)} -- ${to} || exit 1`]),
    `rm -f -- ${from}`,
  ].join('\n');
}
