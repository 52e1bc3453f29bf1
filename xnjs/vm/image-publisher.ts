import { createHash, type Hash } from 'node:crypto';
import { Readable } from 'node:stream';
import { z } from 'zod';
import {
  ImageList,
  imageRoutes,
  type ImageMetadata,
  type ImageRecord,
} from '#imagerepo/contract.js';
import { GridError } from '#kernel/errors.js';
import type { HttpClient } from '#kernel/http/client.js';

export type ImagePublisherOptions = {
  readonly client: HttpClient;
  /** Headers that name the user on whose behalf we act. */
  readonly onBehalfOf: (dn: string) => Record<string, string>;
};

const StoredPart = z.object({ sha256: z.string() });
/** Of a user's own images, the newest first, those that may come from a task. */
const mostFound = 100;

/** Puts images into the image repository, in the name of their owners. */
export class ImagePublisher {
  readonly #options: ImagePublisherOptions;

  constructor(options: ImagePublisherOptions) {
    this.#options = options;
  }

  /** What an earlier attempt of the task has left there. */
  async findBy(
    task: string,
    callerDn: string,
    signal: AbortSignal,
  ): Promise<ImageRecord | undefined> {
    const query = new URLSearchParams({ owner: 'me', details: 'true', num: String(mostFound) });
    const path = `${imageRoutes.images}?${query}`;
    const { body } = await this.#options.client.json(
      'GET',
      path,
      undefined,
      this.#as(callerDn, signal),
    );
    return ImageList.parse(body).records?.find(({ metadata }) => metadata.origin?.task === task);
  }

  /** @returns its id */
  async create(metadata: ImageMetadata, callerDn: string, signal: AbortSignal): Promise<string> {
    const call = this.#as(callerDn, signal);
    const { headers } = await this.#options.client.json('POST', imageRoutes.images, metadata, call);
    return z.uuid().parse(String(headers['location']).split('/').at(-1));
  }

  /** Uploads its disk and makes it usable. */
  async publish(
    image: {
      readonly id: string;
      readonly callerDn: string;
      readonly disk: { readonly source: () => Readable; readonly sizeBytes: number };
    },
    signal: AbortSignal,
  ): Promise<void> {
    const { client } = this.#options;
    const { id, callerDn, disk } = image;
    const call = this.#as(callerDn, signal);
    const hash = createHash('sha256');
    // nothing is read before it is sent: a connection may still have to be made
    const source = Readable.from(hashed(disk.source(), hash), { objectMode: false });
    const how = { ...call, sizeBytes: disk.sizeBytes };
    const { body } = await client.upload('PUT', imageRoutes.part(id, 'disk'), source, how);
    if (StoredPart.parse(body).sha256 !== hash.digest('hex'))
      throw new GridError('PEER_FAILED', 'the disk has arrived damaged', { imageId: id });
    await client.json('POST', imageRoutes.publish(id), {}, call);
  }

  #as(dn: string, signal: AbortSignal) {
    return { headers: this.#options.onBehalfOf(dn), signal };
  }
}

async function* hashed(source: Readable, hash: Hash): AsyncGenerator<Buffer> {
  for await (const chunk of source as AsyncIterable<Buffer>) {
    hash.update(chunk);
    yield chunk;
  }
}
