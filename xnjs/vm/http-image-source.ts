import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import {
  blobPath,
  ImageList,
  ImageRecord,
  imageRoutes,
  type PartName,
} from '#imagerepo/contract.js';
import { asGridError, GridError } from '#kernel/errors.js';
import type { HttpClient } from '#kernel/http/client.js';
import type { ImageSearch, ImageSource } from './image-source.js';
import type { ImageRequirements } from './image-wish.js';

type Content = { readonly sha256: string; readonly sizeBytes: number };

export type HttpImageSourceOptions = {
  readonly client: HttpClient;
  /** Headers that name the user on whose behalf we ask. */
  readonly onBehalfOf: (dn: string) => Record<string, string>;
  /** The repository's store where it is on this host: parts are used in place. */
  readonly storeDirectory?: string | undefined;
  /** Where parts from elsewhere are kept. */
  readonly cacheDirectory: string;
};

/** Newer ones come first: what is found behind so many would hardly be chosen. */
const mostFound = 100;

/** {@link ImageSource} on the image repository's REST interface. */
export class HttpImageSource implements ImageSource, ImageSearch {
  readonly #options: HttpImageSourceOptions;
  readonly #downloads = new Map<string, Promise<string>>();

  constructor(options: HttpImageSourceOptions) {
    this.#options = options;
  }

  async find(reference: string, callerDn: string): Promise<ImageRecord> {
    const headers = this.#options.onBehalfOf(callerDn);
    const id = z.uuid().safeParse(reference).success
      ? reference
      : await this.#findByName(reference, headers);
    const record = id === undefined ? undefined : await this.#get(id, headers);
    if (record?.state === 'PUBLISHED') return record;
    throw new GridError('IMAGE_UNKNOWN', `image: there is no published image ${reference}`, {
      reference,
    });
  }

  async search(requirements: ImageRequirements, callerDn: string): Promise<ImageRecord[]> {
    const wanted = Object.entries(requirements).flatMap(([name, value]) =>
      // ranges of versions and kinds of systems are the caller's to look at
      value === undefined || name === 'applicationVersion' || name === 'osType'
        ? []
        : [[name, value] as const],
    );
    const query = new URLSearchParams({
      ...Object.fromEntries(wanted),
      state: 'PUBLISHED',
      details: 'true',
      num: String(mostFound),
    });
    const headers = this.#options.onBehalfOf(callerDn);
    const body = await this.#unlessUnknown(`${imageRoutes.images}?${query}`, headers);
    return body === undefined ? [] : (ImageList.parse(body).records ?? []);
  }

  async isHere({ parts }: Pick<ImageRecord, 'parts'>, part: PartName): Promise<boolean> {
    const content = parts[part];
    return content !== undefined && (await this.#local(content)) !== undefined;
  }

  async fetch(
    image: Pick<ImageRecord, 'id' | 'parts'>,
    part: PartName,
    callerDn: string,
  ): Promise<string> {
    const content = image.parts[part];
    if (!content)
      throw new GridError('IMAGE_INVALID', `the image has no part ${part}`, { imageId: image.id });
    const local = await this.#local(content);
    if (local !== undefined) return local;
    const running = this.#downloads.get(content.sha256);
    if (running) return await running;
    const download = this.#download(image.id, part, content, callerDn).finally(() =>
      this.#downloads.delete(content.sha256),
    );
    this.#downloads.set(content.sha256, download);
    return await download;
  }

  async #local({ sha256, sizeBytes }: Content): Promise<string | undefined> {
    const { storeDirectory, cacheDirectory } = this.#options;
    for (const directory of [storeDirectory, cacheDirectory]) {
      if (directory === undefined) continue;
      const path = join(directory, blobPath(sha256));
      if ((await sizeOf(path)) === sizeBytes) return path;
    }
    return undefined;
  }

  /** `name` or `name:version`; of several versions the newest upload. */
  async #findByName(
    reference: string,
    headers: Record<string, string>,
  ): Promise<string | undefined> {
    const [name = '', version] = reference.split(':');
    const query = new URLSearchParams({
      name,
      ...(version !== undefined && { version }),
      state: 'PUBLISHED', // not a newer one that is still being uploaded
    });
    const path = `${imageRoutes.images}?${query}`;
    const body = await this.#unlessUnknown(path, headers);
    if (body === undefined) return undefined;
    return ImageList.parse(body).images[0]?.split('/').at(-1);
  }

  async #get(id: string, headers: Record<string, string>): Promise<ImageRecord | undefined> {
    const body = await this.#unlessUnknown(imageRoutes.image(id), headers);
    return body === undefined ? undefined : ImageRecord.parse(body);
  }

  /** `undefined`: no such image, none for this user, or what no image can be called. */
  async #unlessUnknown(path: string, headers: Record<string, string>): Promise<unknown> {
    try {
      return (await this.#options.client.json('GET', path, undefined, { headers })).body;
    } catch (error) {
      const status = asGridError(error)?.row.http;
      if (status === 404 || status === 403 || status === 400) return undefined;
      throw error;
    }
  }

  async #download(
    id: string,
    part: PartName,
    { sha256, sizeBytes }: Content,
    callerDn: string,
  ): Promise<string> {
    const { client, cacheDirectory, onBehalfOf } = this.#options;
    const path = join(cacheDirectory, blobPath(sha256));
    const draft = `${path}.new`;
    await mkdir(dirname(path), { recursive: true, mode: 0o711 });
    try {
      const { body } = await client.download(imageRoutes.part(id, part), {
        headers: onBehalfOf(callerDn),
      });
      const hash = createHash('sha256');
      await pipeline(
        body,
        async function* (chunks: AsyncIterable<Buffer>) {
          for await (const chunk of chunks) {
            hash.update(chunk);
            yield chunk;
          }
        },
        createWriteStream(draft, { flush: true }),
      );
      if ((await sizeOf(draft)) !== sizeBytes || hash.digest('hex') !== sha256)
        throw new GridError('IMAGE_INVALID', `part ${part} of the image has arrived damaged`, {
          imageId: id,
        });
      await rename(draft, path);
      return path;
    } catch (error) {
      await rm(draft, { force: true });
      throw error;
    }
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  return await stat(path).then(
    ({ size }) => size,
    () => undefined,
  );
}
