import type { Readable } from 'node:stream';
import { asGridError } from '#kernel/errors.js';
import { digestOf } from './digest.js';
import { PassingError } from './errors.js';
import { landOnServer } from './land-on-server.js';
import { landOnTarget } from './land-on-target.js';
import { pour } from './pour.js';
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
 * Nothing is collected: what the receiver does not take is not read.
 * @returns bytes that are now there; `undefined`: there was a file, which is to stay
 */
export async function receive(
  transfer: ImportTransfer,
  to: string,
  file: SourceFile,
): Promise<number | undefined> {
  const { entry, site, progress, signal } = transfer;
  const landing = site.target ? await landOnTarget(transfer, to) : landOnServer(transfer, to);
  if (entry.mode === 'nooverwrite' && (await landing.size()) !== undefined) return undefined;
  if (entry.mode === 'append' && progress.of(to)?.appendFrom === undefined)
    await progress.note(to, { appendFrom: (await landing.size()) ?? 0 });
  const validator = progress.of(to)?.validator;
  const offset = validator === undefined ? 0 : ((await landing.partSize()) ?? 0);
  const resume = validator !== undefined && offset > 0 ? { offset, validator } : undefined;
  const source = await file.open(resume);
  source.body.on('error', () => undefined); // it is told by whoever reads
  try {
    progress.began({ file: to, ...source });
    if (source.validator !== validator) await progress.note(to, { validator: source.validator });
    const digest = digestOf(entry.parameters['checksum']);
    if (digest && source.offset > 0)
      for await (const chunk of landing.readPart(source.offset) as AsyncIterable<Buffer>)
        digest.update(chunk);
    const { size } = await pour(transfer, source, digest, (bytes) =>
      landing.writePart(bytes, source.offset > 0),
    );
    digest?.verify();
    if ((await landing.partSize()) !== size) {
      await landing.removePart();
      throw new PassingError('what was sent has not been stored');
    }
    await landing.place(entry.permissions ?? file.permissions);
    return size;
  } catch (error) {
    if (asGridError(error)?.row.retry !== true && !signal.aborted)
      await landing.removePart().catch(() => undefined);
    throw error;
  } finally {
    source.body.destroy();
  }
}
