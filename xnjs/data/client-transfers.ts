import { createHash, randomBytes, randomUUID } from 'node:crypto';
import type { Clock } from '#kernel/clock.js';
import { asGridError, GridError } from '#kernel/errors.js';
import type { FileInfo, FileSpace } from '../files/file-space.js';
import { fileNamed } from '../files/file-space.js';
import { parentOf } from '../files/path.js';
import type { Storages } from '../storage/storages.js';
import type { DataConfig } from './config.js';
import { OwnedRecords, type OwnedRecord, type RecordStore } from './owned-records.js';
import { storageFor, type Principal } from './principal.js';

/** Leave for whoever has its key to read, or to write, one file. */
export type ClientTransfer = OwnedRecord & {
  /** In whose name it is done. */
  readonly principal: Principal;
  /** SHA-256: who reads the database does not learn the key. */
  readonly keyHash: string;
  readonly storageId: string;
  /** Canonical. */
  readonly path: string;
  readonly isExport: boolean;
  /** Of an import. */
  readonly append: boolean;
  /** The most that is read or written. */
  readonly maxBytes?: number;
  readonly parameters: Readonly<Record<string, string>>;
  readonly transferredBytes: number;
};

export type ClientTransferWish = Pick<
  ClientTransfer,
  'principal' | 'storageId' | 'isExport' | 'append' | 'parameters' | 'tags'
> & { readonly file: string; readonly maxBytes?: number | undefined };

export type ClientTransfersOptions = {
  readonly store: RecordStore<ClientTransfer>;
  readonly storages: Pick<Storages, 'get'>;
  readonly config: Pick<DataConfig, 'clientTransferSeconds' | 'perUser'>;
  readonly clock: Clock;
};

/** What the holder of a key may work with. */
export type Opened = { readonly transfer: ClientTransfer; readonly files: FileSpace };

const keyBytes = 32;

/** Imports and exports by clients (unicore-rest 3.12): addresses that need no login, for one file each. */
export class ClientTransfers {
  readonly records: OwnedRecords<ClientTransfer>;
  readonly #options: ClientTransfersOptions;
  readonly #ids = new Map<string, string>();

  constructor(options: ClientTransfersOptions) {
    const { store, config } = options;
    this.#options = options;
    this.records = new OwnedRecords({ store, what: 'transfer', perUser: config.perUser });
  }

  async start(): Promise<void> {
    for (const { keyHash, id } of await this.records.load()) this.#ids.set(keyHash, id);
  }

  /**
   * @returns the record, and the key, which is known to nobody else
   * @throws `NOT_FOUND`, `BAD_REQUEST` it is no file; `STORAGE_FULL` there is no place for so much
   */
  async create(wish: ClientTransferWish): Promise<{ transfer: ClientTransfer; key: string }> {
    const { storages, clock } = this.#options;
    const { file, maxBytes, principal, storageId, isExport, ...others } = wish;
    const path = fileNamed(file);
    const level = isExport ? 'read' : 'write';
    const storage = await storageFor(storages, storageId, principal, level);
    const files = storage.files(principal.dn);
    if (isExport) await getFile(files, path);
    else await prepare(files, path, maxBytes);
    const key = randomBytes(keyBytes).toString('base64url');
    const transfer: ClientTransfer = {
      ...others,
      ...{ id: randomUUID(), ownerDn: principal.dn, principal, storageId, isExport, path },
      keyHash: hashOf(key),
      ...(maxBytes !== undefined && { maxBytes }),
      transferredBytes: 0,
      createdMs: clock.now(),
      terminationMs: this.latestTerminationMs(),
    };
    await this.records.add(transfer);
    this.#ids.set(transfer.keyHash, transfer.id);
    return { transfer, key };
  }

  /** @throws `NOT_FOUND` no such key, or its time is over; `FORBIDDEN` it is for the other direction */
  async open(key: string, direction: 'read' | 'write'): Promise<Opened> {
    const { storages, clock } = this.#options;
    const transfer = this.records.find(this.#ids.get(hashOf(key)) ?? '');
    if (!transfer || (transfer.terminationMs ?? Infinity) <= clock.now())
      throw new GridError('NOT_FOUND', 'there is no such transfer');
    if (transfer.isExport !== (direction === 'read'))
      throw new GridError(
        'FORBIDDEN',
        `this address is for ${transfer.isExport ? 'downloading' : 'uploading'} only`,
      );
    const { storageId, principal } = transfer;
    const storage = await storageFor(storages, storageId, principal, direction);
    return { transfer, files: storage.files(principal.dn) };
  }

  async note(id: string, bytes: number): Promise<void> {
    await this.records.update(id, (before) => ({
      ...before,
      transferredBytes: before.transferredBytes + bytes,
    }));
  }

  async destroy(id: string): Promise<void> {
    const { keyHash } = this.records.get(id);
    await this.records.remove(id);
    this.#ids.delete(keyHash);
  }

  latestTerminationMs(): number {
    const { clock, config } = this.#options;
    return clock.now() + config.clientTransferSeconds * 1_000;
  }
}

function hashOf(key: string): string {
  return createHash('sha256').update(key).digest('base64url');
}

/** @throws `NOT_FOUND`, `BAD_REQUEST` it is a directory */
async function getFile(files: FileSpace, path: string): Promise<FileInfo> {
  const found = await files.stat(path);
  if (!found.isDirectory) return found;
  throw new GridError('BAD_REQUEST', `"${path}" is a directory`, { path });
}

async function prepare(files: FileSpace, path: string, bytes: number | undefined): Promise<void> {
  try {
    await getFile(files, path);
  } catch (error) {
    if (asGridError(error)?.code !== 'NOT_FOUND') throw error;
    await files.mkdir(parentOf(path));
  }
  if (bytes === undefined) return;
  const left = await spaceLeft(files);
  if (left !== undefined && bytes > left)
    throw new GridError('STORAGE_FULL', `there is place for ${left} bytes, and not for ${bytes}`);
}

async function spaceLeft(files: FileSpace): Promise<number | undefined> {
  try {
    const { freeBytes, userBytes } = await files.space();
    const known = [freeBytes, userBytes].filter((each) => each >= 0);
    return known.length > 0 ? Math.min(...known) : undefined;
  } catch (error) {
    if (asGridError(error)?.code === 'TSI_FAILED') return undefined; // it cannot be found out
    throw error;
  }
}
