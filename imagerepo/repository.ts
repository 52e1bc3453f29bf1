import { randomUUID } from 'node:crypto';
import type { Readable } from 'node:stream';
import type { Transaction } from 'sequelize';
import type { Clock } from '#kernel/clock.js';
import { describeIssues } from '#kernel/config.js';
import type { Caller } from '#kernel/http/caller.js';
import type { ByteRange } from '#kernel/http/range.js';
import type { Log } from '#kernel/log.js';
import { createSerial } from '#kernel/persistence/serial.js';
import type { Catalogue } from './catalogue/catalogue.js';
import { isVisible } from './catalogue/search.js';
import { imageFormats, ImageMetadata, type ImageRecord, type PartName } from './contract.js';
import { ImageError, unknownImage } from './errors.js';
import type { BlobStore, Incoming } from './store/blob-store.js';
import { checkContent, type ContentLimits } from './store/content.js';
import { virtualBytesOf } from './store/qcow2.js';

export type RepositoryDeps = {
  readonly catalogue: Catalogue;
  readonly store: BlobStore;
  readonly clock: Clock;
  readonly log: Log;
  /** Called after a commit that has changed an image. */
  readonly onChange?: () => void;
  readonly limits: ContentLimits & { readonly maxPartBytes: number };
};

/** What stays open to change when target systems may use the image already. */
const alwaysChangeable: readonly string[] = ['description', 'visibility'];

/**
 * Images from their creation to their end. The catalogue is written before files go and after files
 * have come, so that a record never points to nothing; {@link recover} removes what a crash left over.
 */
export class ImageRepository {
  readonly #catalogue: Catalogue;
  readonly #store: BlobStore;
  readonly #deps: RepositoryDeps;
  /** By digest: between a look whether a blob is in use and what is then done about it. */
  readonly #serial = createSerial();

  constructor(deps: RepositoryDeps) {
    this.#deps = deps;
    this.#catalogue = deps.catalogue;
    this.#store = deps.store;
  }

  get catalogue(): Catalogue {
    return this.#catalogue;
  }

  get maxPartBytes(): number {
    return this.#deps.limits.maxPartBytes;
  }

  /** @throws {@link ImageError} `IMAGE_UNKNOWN` also if the caller may not see it */
  async get(id: string, caller: Caller): Promise<ImageRecord> {
    const image = await this.#catalogue.find(id);
    if (image && isVisible(caller, image)) return image;
    throw unknownImage(id);
  }

  async create(owner: string, metadata: ImageMetadata): Promise<string> {
    const id = randomUUID();
    const createdMs = this.#deps.clock.now();
    await this.#change(async (transaction) => {
      await this.#catalogue.insert({ id, owner, createdMs, metadata }, transaction);
      await this.#catalogue.note(undefined, id, transaction);
    });
    this.#deps.log.info({ imageId: id, dn: owner }, 'image created');
    return id;
  }

  /** Changes the given members. @throws {@link ImageError} `CONFLICT` for what is fixed by now */
  async change(id: string, changes: Readonly<Record<string, unknown>>): Promise<ImageRecord> {
    await this.#change(async (transaction) => {
      const image = await this.#existing(id, transaction);
      const fixed = Object.keys(changes).find((name) => !isChangeable(image, name));
      if (fixed !== undefined)
        throw new ImageError('CONFLICT', `${fixed} cannot be changed any more`, { imageId: id });
      const metadata = ImageMetadata.safeParse({ ...image.metadata, ...changes });
      if (!metadata.success)
        throw new ImageError('IMAGE_INVALID', describeIssues(metadata.error), { imageId: id });
      await this.#catalogue.setMetadata(id, metadata.data, transaction);
      await this.#catalogue.note(image, id, transaction);
    });
    return this.#existing(id);
  }

  /** Takes a part's content, in place of an earlier one. */
  async upload(
    id: string,
    part: PartName,
    source: () => Readable,
    sha256?: string,
  ): Promise<Incoming> {
    checkTakesPart(await this.#existing(id), part);
    const incoming = await this.#store.receive(source(), {
      maxBytes: this.maxPartBytes,
      sha256,
    });
    const replaced = await this.#serial(incoming.sha256, () => this.#attach(id, part, incoming));
    if (replaced !== undefined && replaced !== incoming.sha256) await this.#release(replaced);
    const { sha256: digest, sizeBytes: bytes } = incoming;
    this.#deps.log.info({ imageId: id, part, digest, bytes }, 'part stored');
    return incoming;
  }

  /** @returns the stream and what it is a part of */
  read(sha256: string, range?: ByteRange): Readable {
    return this.#store.read(sha256, range);
  }

  /** From now on the image can be used, and what it consists of is fixed. */
  async publish(id: string): Promise<ImageRecord> {
    const image = await this.#existing(id);
    if (image.state === 'PUBLISHED') return image;
    const { format, os } = image.metadata;
    let diskBytes = 0;
    for (const part of imageFormats[format].parts) {
      const content = image.parts[part];
      if (!content) throw new ImageError('IMAGE_INVALID', `${part} is missing`, { imageId: id });
      await this.#store.inspect(content.sha256, async (bytes) => {
        await checkContent(part, bytes, os.architecture, this.#deps.limits);
        if (part === 'disk') diskBytes = await virtualBytesOf(bytes);
      });
    }
    await this.#change(async (transaction) => {
      const now = await this.#existing(id, transaction);
      if (
        JSON.stringify([now.parts, now.metadata]) !== JSON.stringify([image.parts, image.metadata])
      )
        throw new ImageError('CONFLICT', 'the image changed meanwhile', { imageId: id });
      await this.#catalogue.setState(id, 'PUBLISHED', transaction);
      if (diskBytes > 0) await this.#catalogue.setVirtualSize(id, 'disk', diskBytes, transaction);
      await this.#catalogue.note(now, id, transaction);
    });
    this.#deps.log.info({ imageId: id }, 'image published');
    return this.#existing(id);
  }

  /** The intent is durable first: what follows also happens after a crash. */
  async delete(id: string): Promise<void> {
    await this.#change(async (transaction) => {
      const image = await this.#existing(id, transaction);
      await this.#catalogue.setState(id, 'DELETING', transaction);
      await this.#catalogue.note(image, id, transaction);
    });
    await this.#finishDeletion(id);
  }

  /** At start: ends deletions, removes unfinished uploads and contents that nobody refers to. */
  async recover(): Promise<void> {
    await this.#store.removeLeftovers();
    for (const id of await this.#catalogue.idsOfDeleting()) await this.#finishDeletion(id);
    for await (const sha256 of this.#store.list()) await this.#release(sha256);
  }

  /** For what users can see. */
  async #change(work: (transaction: Transaction) => Promise<void>): Promise<void> {
    await this.#catalogue.transaction(work);
    this.#deps.onChange?.();
  }

  async #finishDeletion(id: string): Promise<void> {
    const image = await this.#catalogue.find(id);
    for (const [part, { sha256 }] of entriesOf(image?.parts ?? {})) {
      await this.#catalogue.transaction((transaction) =>
        this.#catalogue.removePart(id, part, transaction),
      );
      await this.#release(sha256);
    }
    await this.#catalogue.transaction((transaction) => this.#catalogue.remove(id, transaction));
    this.#deps.log.info({ imageId: id }, 'image deleted');
  }

  /** Blob and record, or neither. @returns the digest of the content that it replaces */
  async #attach(id: string, part: PartName, incoming: Incoming): Promise<string | undefined> {
    try {
      await this.#store.keep(incoming);
      return await this.#catalogue.transaction(async (transaction) => {
        const image = await this.#existing(id, transaction);
        checkTakesPart(image, part);
        await this.#catalogue.setPart(id, part, incoming, transaction);
        return image.parts[part]?.sha256;
      });
    } catch (error) {
      await this.#store.discard(incoming);
      // with the database gone the next start does it
      await this.#removeUnreferred(incoming.sha256).catch(() => undefined);
      throw error;
    }
  }

  #release(sha256: string): Promise<void> {
    return this.#serial(sha256, () => this.#removeUnreferred(sha256));
  }

  async #removeUnreferred(sha256: string): Promise<void> {
    if (!(await this.#catalogue.isReferred(sha256))) await this.#store.remove(sha256);
  }

  async #existing(id: string, transaction?: Transaction): Promise<ImageRecord> {
    const image = await this.#catalogue.find(id, transaction);
    if (image === undefined || image.state === 'DELETING') throw unknownImage(id);
    return image;
  }
}

function isChangeable({ state, parts }: ImageRecord, name: string): boolean {
  if (alwaysChangeable.includes(name)) return true;
  // the format decides which parts there are
  return state === 'INCOMPLETE' && (name !== 'format' || Object.keys(parts).length === 0);
}

function checkTakesPart({ id, state, metadata }: ImageRecord, part: PartName): void {
  const facts = { imageId: id, part };
  if (state !== 'INCOMPLETE') throw new ImageError('CONFLICT', 'the image is published', facts);
  const parts: readonly PartName[] = imageFormats[metadata.format].parts;
  if (!parts.includes(part))
    throw new ImageError('IMAGE_INVALID', `format ${metadata.format} has no ${part}`, facts);
}

function entriesOf(parts: ImageRecord['parts']) {
  return Object.entries(parts) as [PartName, { sha256: string; sizeBytes: number }][];
}
