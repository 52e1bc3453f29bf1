import type { Readable } from 'node:stream';
import { z } from 'zod';
import { collectText } from '#kernel/net/collect-text.js';
import { StagingError } from './errors.js';
import { maxEntries, type Tree, type TreeEntry } from './expand.js';
import { drain, type Authorize } from './http.js';
import { tokenLifetimeSeconds } from './site-tokens.js';
import { hasWildcard } from './wildcard.js';
import { authorizationOf, type ExportTransfer, type ImportTransfer } from './transfer.js';

/** `[BFT:]https://host/SITE/rest/core/storages/<id>/files/<path>`. */
export type UnicoreUrl = {
  /** `https://host/SITE` */
  readonly base: string;
  readonly storageId: string;
  /** Names from the root of the storage on: decoded, those with wildcards as they are. */
  readonly path: readonly string[];
  /** It is said to be a directory. */
  readonly isDirectory: boolean;
};

const pattern = /^(?:BFT:)?(https?:\/\/[^?#]*)\/rest\/core\/storages\/([^/?#]+)\/files(\/.*)?$/i;

/** Wildcards are allowed, so that `?` begins no query. @returns `undefined`: it is another URL */
export function parseUnicoreUrl(text: string): UnicoreUrl | undefined {
  const [, base, id, path = ''] = pattern.exec(text) ?? [];
  if (base === undefined || id === undefined || !URL.canParse(base)) return undefined;
  const names = path
    .split('/')
    .map((name) => (hasWildcard(name) ? name : decode(name)))
    .filter((name) => name !== '' && name !== '.');
  const storageId = decode(id);
  // also where they are hidden: a URL with them in it means another one
  const parts = [storageId, ...names].flatMap((name) => name.split('/'));
  if (parts.some((part) => /^(?:\.|%2e){1,2}$/i.test(part))) return undefined;
  return {
    base,
    storageId,
    path: names,
    isDirectory: path === '' || path.endsWith('/'),
  };
}

export function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new StagingError('BAD_REQUEST', `"${text}" in the URL is not percent-encoded`);
  }
}

const entry = z.looseObject({
  isDirectory: z.boolean(),
  size: z.number().nonnegative(),
  lastAccessed: z.string().default(''),
  permissions: z.string().optional(),
});
const directory = entry.extend({ content: z.record(z.string(), entry).optional() });

/** A file of a remote storage. */
export type RemoteFile = TreeEntry & {
  readonly sizeBytes: number;
  /** As the site says it; good for comparing only. */
  readonly modified: string;
  readonly permissions: string | undefined;
};

const maxListingBytes = 16 * 1024 * 1024;

/** The file operations of one storage of a UNICORE site (unicore-rest 3.8, 3.11). */
export class UnicoreClient implements Tree<RemoteFile> {
  readonly #transfer: ImportTransfer | ExportTransfer;
  readonly #storage: string;
  readonly #site: URL;
  /** Of the element, or of its URL. */
  readonly #own: string | undefined;
  #token: { readonly value: string | undefined; readonly untilMs: number } | undefined;

  constructor(transfer: ImportTransfer | ExportTransfer, { base, storageId }: UnicoreUrl) {
    const url = new URL(base);
    const { username, password } = url;
    const inUrl =
      username === ''
        ? undefined
        : ({ kind: 'basic', username: decode(username), password: decode(password) } as const);
    url.username = url.password = '';
    this.#transfer = transfer;
    this.#storage = `${url.href.replace(/\/+$/, '')}/rest/core/storages/${encodeURIComponent(storageId)}`;
    this.#site = url;
    this.#own = authorizationOf({ credentials: transfer.entry.credentials ?? inUrl });
  }

  /** The user's own credentials, else our word for him where the site is one that gets it. */
  readonly authorize: Authorize = async () => {
    if (this.#own !== undefined) return { authorization: this.#own };
    const { clock, onBehalfOf, job } = this.#transfer;
    const now = clock.now();
    if (!this.#token || this.#token.untilMs <= now) {
      const value = await onBehalfOf(job.ownerDn, this.#site);
      this.#token = { value, untilMs: now + tokenLifetimeSeconds * 500 };
    }
    const { value } = this.#token;
    return value === undefined ? {} : { authorization: `Bearer ${value}`, isDelegated: true };
  };

  url(path: string): URL {
    return new URL(`${this.#storage}/files/${path.split('/').map(encodeURIComponent).join('/')}`);
  }

  /** @returns `undefined`: there is no such file */
  async stat(path: string): Promise<RemoteFile | undefined> {
    try {
      const found = entry.parse(await this.#json('GET', this.#page(path, 1)));
      return toRemote(path, found);
    } catch (error) {
      if (error instanceof StagingError && error.code === 'NOT_FOUND') return undefined;
      throw error;
    }
  }

  /** @throws {@link StagingError} `BAD_REQUEST` there are too many */
  async list(path: string): Promise<RemoteFile[]> {
    const { content = {} } = directory.parse(await this.#json('GET', this.#page(path, maxEntries)));
    const names = Object.entries(content);
    if (names.length >= maxEntries)
      throw new StagingError('BAD_REQUEST', `/${path} has ${maxEntries} entries or more`);
    return names.map(([name, found]) => {
      const file = toRemote(name.replace(/^\/+|\/+$/g, ''), found);
      if (file.path.split('/').every((part) => part !== '..' && part !== '.')) return file;
      throw new StagingError('PEER_FAILED', 'the site lists names that are none');
    });
  }

  async chmod(path: string, permissions: string): Promise<void> {
    await this.#json('PUT', this.url(path), { permissions });
  }

  async mkdir(path: string): Promise<void> {
    await this.#json('POST', this.url(path), {});
  }

  async rename(from: string, to: string): Promise<void> {
    const url = new URL(`${this.#storage}/actions/rename`);
    await this.#json('POST', url, { from: `/${from}`, to: `/${to}` });
  }

  async remove(path: string): Promise<void> {
    await this.#json('DELETE', this.url(path));
  }

  async upload(path: string, body: Readable, sizeBytes: number): Promise<void> {
    const answer = await this.#transfer.outside.request(this.url(path), {
      ...(await this.authorize()),
      method: 'PUT',
      headers: {
        'content-type': 'application/octet-stream',
        'content-length': String(sizeBytes),
      },
      body,
      signal: this.#transfer.signal,
    });
    await drain(answer.body);
  }

  #page(path: string, num: number): URL {
    const url = this.url(path);
    url.search = `offset=0&num=${num}`;
    return url;
  }

  async #json(
    method: 'GET' | 'PUT' | 'POST' | 'DELETE',
    url: URL,
    body?: object,
  ): Promise<unknown> {
    const { body: answer } = await this.#transfer.outside.request(url, {
      ...(await this.authorize()),
      method,
      headers: {
        accept: 'application/json',
        ...(body && { 'content-type': 'application/json' }),
      },
      ...(body && { body: JSON.stringify(body) }),
      signal: this.#transfer.signal,
    });
    const text = await collectText(answer, maxListingBytes);
    if (text === undefined)
      throw new StagingError(
        'PEER_FAILED',
        `${url.host} sends a listing of more than ${maxListingBytes} bytes`,
      );
    if (text === '') return undefined;
    try {
      return JSON.parse(text) as unknown;
    } catch {
      throw new StagingError(
        'PEER_FAILED',
        `${url.host} does not answer as a UNICORE storage does`,
      );
    }
  }
}

function toRemote(path: string, found: z.output<typeof entry>): RemoteFile {
  const { permissions } = found;
  return {
    path,
    isDirectory: found.isDirectory,
    sizeBytes: found.size,
    modified: found.lastAccessed,
    permissions:
      permissions !== undefined && /^([-r][-w][-xsS]){1,2}([-r][-w][-xtT])?$/.test(permissions)
        ? permissions
        : undefined,
  };
}
