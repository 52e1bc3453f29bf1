import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { errorText, GridError } from '#kernel/errors.js';
import { linkSignals } from '#kernel/net/deadline.js';
import { element, toXml } from '#kernel/xml/build.js';
import { parseXml } from '#kernel/xml/parse.js';
import { attributeOf, findBelow, textOf } from '#kernel/xml/read.js';
import type { LibvirtClient } from './client.js';
import { hasRefused, libvirtCode, unavailable } from './errors.js';
import type { StoragePool, StorageVolume } from './procedures.js';

/** A volume as it is on its host at the moment. */
export type PoolVolume = {
  readonly name: string;
  /** On its host. */
  readonly path: string;
  /** Length of its file. */
  readonly sizeBytes: number;
  /** When it was last written to, by its host's clock, as that says it. */
  readonly changed: string;
  /** The file that it is a layer upon; absent: it is none. */
  readonly backingPath?: string;
};

export type NewPoolVolume = {
  readonly name: string;
  readonly sizeBytes: number;
  readonly format: 'raw' | 'qcow2';
  /** A qcow2 file on the same host which it is a layer upon. */
  readonly backingPath?: string;
};

export type TransferOptions = {
  readonly signal: AbortSignal;
  /** The longest that no byte passes. */
  readonly stallMs?: number;
  /** As many bytes at most; absent: all there are. */
  readonly length?: number;
};

export type Clone = {
  readonly from: string;
  readonly to: string;
  readonly format: NewPoolVolume['format'];
  /** With what it is a layer upon; absent: a layer upon the same. */
  readonly isFlat?: boolean;
  readonly timeoutMs: number;
};

const stateRunning = 2;
const defaultStallMs = 60_000;
/** Of a scan of all its files. */
const refreshTimeoutMs = 60_000;
/** Of an answer that waits for what else is done in the pool. */
const options = { timeoutMs: 60_000 };

/** The volumes of one storage pool of one host: files in a directory there. */
export class PoolVolumes {
  readonly #client: LibvirtClient;
  readonly #poolName: string;

  constructor(client: LibvirtClient, poolName: string) {
    this.#client = client;
    this.#poolName = poolName;
  }

  /**
   * Starts the pool if it is only defined, and has libvirt look at its files anew.
   * @throws `HYPERVISOR_FAILED` there is none of that name; `HYPERVISOR_UNAVAILABLE`
   */
  async open(): Promise<void> {
    const pool = await this.#pool();
    const { state } = await this.#client.call('storage_pool_get_info', { pool }, options);
    if (state !== stateRunning)
      await this.#client.call('storage_pool_create', { pool, flags: 0 }, options).catch(ifInvalid);
    await this.refresh();
  }

  /** Has libvirt look anew, at what others have written too; while a volume is being cloned it does not. */
  async refresh(): Promise<void> {
    await this.#refresh().catch((error: unknown) => {
      if (!isCloning(error)) throw error;
    });
  }

  /** As of the last look. */
  async availableBytes(): Promise<number> {
    const pool = await this.#pool();
    return Number((await this.#client.call('storage_pool_get_info', { pool }, options)).available);
  }

  /** Names of those whose names begin so. */
  async list(prefix: string): Promise<string[]> {
    const pool = await this.#pool();
    const listing = { pool, need_results: 1, flags: 0 };
    const { vols } = await this.#client.call('storage_pool_list_all_volumes', listing, options);
    return vols.map(({ name }) => name).filter((name) => name.startsWith(prefix));
  }

  /** `undefined`: libvirt answers and has no such volume. */
  async find(name: string): Promise<PoolVolume | undefined> {
    const xml = await this.#describe(name).catch(async (error: unknown) => {
      // its file may be gone without libvirt's having noticed
      if (libvirtCode(error) === undefined) throw error;
      await this.#refresh().catch((refused: unknown) => {
        throw isCloning(refused) ? unavailable(errorText(refused), { volume: name }) : refused;
      });
      return await this.#describe(name);
    });
    return xml === undefined ? undefined : readVolume(name, xml);
  }

  async create(volume: NewPoolVolume): Promise<PoolVolume> {
    const pool = await this.#pool();
    const xml = volumeXml(volume);
    await this.#client.call('storage_vol_create_xml', { pool, xml, flags: 0 }, options);
    return await this.#made(volume.name);
  }

  /**
   * A copy of a volume that nobody writes to, made on its host. One that was cut off is there, and not whole.
   * @throws `HYPERVISOR_FAILED` there is no such volume, or no room
   */
  async clone({ from, to: name, format, isFlat = false, timeoutMs }: Clone): Promise<PoolVolume> {
    const [pool, clonevol] = [await this.#pool(), await this.#get(from)];
    const { backingPath } = (await this.find(from)) ?? {};
    const backing = !isFlat && backingPath !== undefined && { backingPath };
    // no smaller than what it is a copy of
    const xml = volumeXml({ name, sizeBytes: 0, format, ...backing });
    const args = { pool, xml, clonevol, flags: 0 };
    await this.#client.call('storage_vol_create_xml_from', args, { timeoutMs });
    return await this.#made(name);
  }

  async #made(name: string): Promise<PoolVolume> {
    const made = await this.find(name);
    if (made) return made;
    throw new GridError('HYPERVISOR_FAILED', `volume ${name} is gone as soon as it was made`);
  }

  /** One that is not there is fine. @throws `HYPERVISOR_UNAVAILABLE` it is still being cloned */
  async remove(name: string): Promise<void> {
    const vol = await this.#lookUp(name);
    if (!vol) return;
    await this.#client.call('storage_vol_delete', { vol, flags: 0 }, options).catch(ifGone);
  }

  /**
   * Writes into a volume; returns when its host has confirmed all of it.
   * @param open makes the source; called when the host takes the bytes: what fails or leaks before that has no source
   * @param atBytes where it begins there
   * @param onBytes told of each piece that is on its way
   */
  async upload(
    name: string,
    open: () => Readable,
    atBytes: number,
    { signal, stallMs = defaultStallMs }: TransferOptions,
    onBytes: (bytes: number) => void = () => undefined,
  ): Promise<void> {
    const vol = await this.#get(name);
    using stall = startStall(stallMs);
    using until = linkSignals(signal, stall.signal);
    const where = { vol, offset: BigInt(atBytes), length: 0n, flags: 0 };
    const stream = await this.#client.openStream('storage_vol_upload', where, until);
    const counted = async function* (chunks: AsyncIterable<Buffer>) {
      for await (const chunk of chunks) {
        stall.moved();
        onBytes(chunk.length);
        yield chunk;
      }
    };
    await pipeline(open(), counted, stream, { signal: until.signal });
  }

  /** @param atBytes where it begins there */
  async *download(
    name: string,
    atBytes: number,
    { signal, stallMs = defaultStallMs, length = 0 }: TransferOptions,
  ): AsyncGenerator<Buffer> {
    const vol = await this.#get(name);
    using stall = startStall(stallMs);
    using until = linkSignals(signal, stall.signal);
    const where = { vol, offset: BigInt(atBytes), length: BigInt(length), flags: 0 };
    const stream = await this.#client.openStream('storage_vol_download', where, until);
    const end = (): void => void stream.destroy(until.signal.reason as Error);
    until.signal.addEventListener('abort', end, { once: true });
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      stall.moved();
      yield chunk;
    }
  }

  async #refresh(): Promise<void> {
    const args = { pool: await this.#pool(), flags: 0 };
    await this.#client.call('storage_pool_refresh', args, { timeoutMs: refreshTimeoutMs });
  }

  async #describe(name: string): Promise<string | undefined> {
    const vol = await this.#lookUp(name);
    if (!vol) return undefined;
    const args = { vol, flags: 0 };
    return (await this.#client.call('storage_vol_get_xml_desc', args, options)).xml;
  }

  async #pool(): Promise<StoragePool> {
    try {
      const name = this.#poolName;
      return (await this.#client.call('storage_pool_lookup_by_name', { name }, options)).pool;
    } catch (error) {
      if (!hasRefused(error, 'noPool')) throw error;
      throw new GridError('HYPERVISOR_FAILED', `there is no storage pool ${this.#poolName}`);
    }
  }

  async #lookUp(name: string): Promise<StorageVolume | undefined> {
    const pool = await this.#pool();
    try {
      return (await this.#client.call('storage_vol_lookup_by_name', { pool, name }, options)).vol;
    } catch (error) {
      if (hasRefused(error, 'noVolume')) return undefined;
      // a pool that is not started says nothing of what is in it
      throw hasRefused(error, 'operationInvalid')
        ? unavailable(errorText(error), { pool: this.#poolName })
        : error;
    }
  }

  async #get(name: string): Promise<StorageVolume> {
    const vol = await this.#lookUp(name);
    if (vol) return vol;
    throw new GridError('HYPERVISOR_FAILED', `there is no volume ${name}`);
  }
}

type Stall = Disposable & { readonly signal: AbortSignal; moved(): void };

/** Ends what makes no progress. */
function startStall(ms: number): Stall {
  const controller = new AbortController();
  const timer = setTimeout(
    () => controller.abort(unavailable('a volume makes no progress', { timeoutMs: ms })),
    ms,
  );
  return {
    signal: controller.signal,
    moved: () => void timer.refresh(),
    [Symbol.dispose]: () => clearTimeout(timer),
  };
}

function readVolume(name: string, xml: string): PoolVolume {
  const root = parseXml(xml).documentElement;
  const find = (...path: string[]): string => {
    let at: Element | undefined = root;
    for (const step of path) at = at && findBelow(at, ({ localName }) => localName === step);
    return at ? textOf(at) : '';
  };
  const bytes = findBelow(root, ({ localName }) => localName === 'physical');
  // an empty file has none
  const sizeBytes = bytes && attributeOf(bytes, 'unit') === 'bytes' ? Number(textOf(bytes)) : 0;
  const path = find('target', 'path');
  if (!Number.isSafeInteger(sizeBytes) || path === '')
    throw new GridError(
      'HYPERVISOR_FAILED',
      `libvirt does not tell where volume ${name} is, or how long`,
    );
  const backingPath = find('backingStore', 'path');
  return {
    ...{ name, path, sizeBytes, changed: find('timestamps', 'mtime') },
    ...(backingPath !== '' && { backingPath }),
  };
}

function ifInvalid(error: unknown): void {
  if (!hasRefused(error, 'operationInvalid')) throw error; // it runs already
}

function ifGone(error: unknown): void {
  if (hasRefused(error, 'operationInvalid')) throw unavailable(errorText(error), {});
  if (!hasRefused(error, 'noVolume')) throw error;
}

/** libvirt looks at no pool meanwhile, and has no code of its own for that. */
function isCloning(error: unknown): boolean {
  return errorText(error).includes('asynchronous jobs running');
}

function volumeXml({ name, sizeBytes, format, backingPath }: NewPoolVolume): string {
  const backing =
    backingPath !== undefined &&
    element(
      'backingStore',
      {},
      element('path', {}, backingPath),
      element('format', { type: 'qcow2' }),
    );
  return toXml(
    element(
      'volume',
      {},
      element('name', {}, name),
      element('capacity', { unit: 'bytes' }, String(sizeBytes)),
      element('allocation', { unit: 'bytes' }, '0'),
      element(
        'target',
        {},
        element('format', { type: format }),
        element('permissions', {}, element('mode', {}, '0600')),
        format === 'qcow2' && element('compat', {}, '1.1'),
      ),
      backing,
    ),
  );
}
