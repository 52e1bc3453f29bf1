import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { imageRoutes, ImageRecord, type PartName } from '#imagerepo/contract.js';
import type { z } from 'zod';
import { ImagerepoConfig, startImagerepo } from '#imagerepo/main.js';
import { anonymous } from '#kernel/http/caller.js';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import type { Authenticate } from '#kernel/http/router.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { metadata, type Metadata } from './samples.js';

/** Believes a header: `x-test-user: name/role`. */
const byHeader: Authenticate = ({ headers }) => {
  const [name, role = 'user'] = String(headers['x-test-user'] ?? '').split('/');
  return name ? { dn: `CN=${name}`, role } : anonymous;
};

/** The real service on a unix socket, with a real database and directory. */
export class Service {
  readonly scope = new Scope();
  readonly directory: string;
  readonly storeDirectory: string;
  readonly #changes: object;
  #running: AsyncDisposable | undefined;

  private constructor(directory: string, changes: { storeDirectory?: string }) {
    this.directory = directory;
    this.storeDirectory = changes.storeDirectory ?? join(directory, 'store');
    this.#changes = changes;
  }

  static async start(changes: Partial<z.input<typeof ImagerepoConfig>> = {}): Promise<Service> {
    const directory = await mkdtemp(join(tmpdir(), 'imagerepo-'));
    const service = new Service(directory, changes);
    service.scope.defer(() => rm(directory, { recursive: true, force: true }));
    service.scope.defer(() => service.stop());
    await service.resume();
    return service;
  }

  async resume(): Promise<void> {
    const config = ImagerepoConfig.parse({
      listen: { unix: this.socketPath },
      externalUrl: 'https://grid.example/IMAGES',
      database: { url: `sqlite:${this.databasePath}` },
      storeDirectory: this.storeDirectory,
      usersFile: 'unused',
      ...this.#changes,
    });
    this.#running = await startImagerepo(config, { log: silentLog, authenticate: byHeader });
  }

  async stop(): Promise<void> {
    await this.#running?.[Symbol.asyncDispose]();
    this.#running = undefined;
  }

  get socketPath(): string {
    return join(this.directory, 'socket');
  }

  get databasePath(): string {
    return join(this.directory, 'images.sqlite');
  }

  /** @param user `name` or `name/role`; without one the client is anonymous */
  as(user?: string): TestClient {
    const http = createHttpClient({
      baseUrl: 'http://service',
      socketPath: this.socketPath,
      ...(user !== undefined && { headers: { 'x-test-user': user } }),
    });
    return new TestClient(this.scope.use(http));
  }

  /** What lies in the store: digests, and names of unfinished uploads. */
  async files(): Promise<{ blobs: string[]; incoming: string[] }> {
    const entries = await readdir(join(this.storeDirectory, 'blobs'), { recursive: true });
    const blobs = entries.flatMap((path) => path.split('/')[1] ?? []).sort();
    const uploads = await readdir(join(this.storeDirectory, 'incoming'), { recursive: true });
    return { blobs, incoming: uploads.filter((path) => path.includes('/')) };
  }
}

export class TestClient {
  readonly http: HttpClient;

  constructor(http: HttpClient) {
    this.http = http;
  }

  /** @returns the new image's id */
  async create(changes: Partial<Metadata> = {}): Promise<string> {
    const { headers } = await this.http.json('POST', imageRoutes.images, metadata(changes));
    return String(headers['location']).split('/').at(-1)!;
  }

  async put(id: string, part: PartName, content: Buffer | Readable, query = ''): Promise<string> {
    const source = content instanceof Readable ? content : Readable.from([content]);
    const { body } = await this.http.upload('PUT', imageRoutes.part(id, part) + query, source);
    return (body as { sha256: string }).sha256;
  }

  async get(id: string): Promise<ImageRecord> {
    return ImageRecord.parse((await this.http.json('GET', imageRoutes.image(id))).body);
  }

  async publish(id: string): Promise<void> {
    await this.http.json('POST', imageRoutes.publish(id), {});
  }

  async delete(id: string): Promise<void> {
    await this.http.json('DELETE', imageRoutes.image(id));
  }

  async list(query = ''): Promise<string[]> {
    const { body } = await this.http.json('GET', `${imageRoutes.images}?${query}`);
    return (body as { images: string[] }).images.map((url) => url.split('/').at(-1)!);
  }
}

/** Waits for a condition, five seconds at most. */
export async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 5_000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error('the condition did not come true');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
