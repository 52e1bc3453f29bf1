import { Op, type Transaction } from 'sequelize';
import { formatDate } from '#kernel/clock.js';
import type { Caller } from '#kernel/http/caller.js';
import type { Page } from '#kernel/http/page.js';
import type { Log } from '#kernel/log.js';
import { ChangeLog } from '#kernel/persistence/change-log.js';
import type { Database } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import { ImageMetadata, type ImageRecord, type PartName } from '../contract.js';
import { imageChange } from './image-change.js';
import { changesTable, migrations } from './migrations.js';
import { defineModels, type ImageColumns, type Models, type PartColumns } from './models.js';
import { whereFor, type ImageQuery } from './search.js';

type Part = { readonly sha256: string; readonly sizeBytes: number };
export type NewImage = Pick<ImageRecord, 'id' | 'owner' | 'metadata'> & {
  readonly createdMs: number;
};

/** What is known about images. Methods with a transaction belong into one; the others read. */
export class Catalogue {
  readonly #database: Database;
  readonly #models: Models;
  /** What has become of images. */
  readonly changes: ChangeLog;

  private constructor(database: Database) {
    this.#database = database;
    this.#models = defineModels(database.sequelize);
    this.changes = new ChangeLog(database, changesTable);
  }

  static async open(database: Database, log: Log): Promise<Catalogue> {
    await migrate(database, 'imagerepo', migrations, log);
    return new Catalogue(database);
  }

  transaction<T>(work: (transaction: Transaction) => Promise<T>): Promise<T> {
    return this.#database.transaction(work);
  }

  /** With a transaction, nobody else changes the image before its end. */
  async find(id: string, transaction?: Transaction): Promise<ImageRecord | undefined> {
    const lock = transaction && { transaction, lock: transaction.LOCK.UPDATE };
    const row = await this.#models.images.findByPk(id, { raw: true, ...lock });
    if (row === null) return undefined;
    const [record] = await this.#withParts([row], transaction);
    return record;
  }

  async search(
    caller: Caller,
    query: ImageQuery,
    { offset, num: limit }: Page,
  ): Promise<{ ids: readonly string[]; total: number }> {
    const { rows, count: total } = await this.#models.images.findAndCountAll({
      attributes: ['id'],
      where: whereFor(this.#database.sequelize, caller, query),
      order: [
        ['createdMs', 'DESC'],
        ['id', 'ASC'],
      ],
      offset,
      limit,
      raw: true,
    });
    return { ids: rows.map(({ id }) => id), total };
  }

  /** In the order of `ids`; those that have gone meanwhile are left out. */
  async findAll(ids: readonly string[]): Promise<ImageRecord[]> {
    const rows = await this.#models.images.findAll({ where: { id: [...ids] }, raw: true });
    const records = new Map((await this.#withParts(rows)).map((image) => [image.id, image]));
    return ids.flatMap((id) => records.get(id) ?? []);
  }

  async idsOfDeleting(): Promise<string[]> {
    const rows = await this.#models.images.findAll({
      attributes: ['id'],
      where: { state: 'DELETING' },
      raw: true,
    });
    return rows.map(({ id }) => id);
  }

  async insert({ id, owner, createdMs, metadata }: NewImage, transaction: Transaction) {
    const row = { id, owner, createdMs, state: 'INCOMPLETE' as const, ...columnsOf(metadata) };
    await this.#models.images.create(row, { transaction });
    await this.#writeApplications(id, metadata, transaction);
  }

  async setMetadata(id: string, metadata: ImageMetadata, transaction: Transaction) {
    await this.#models.images.update(columnsOf(metadata), { where: { id }, transaction });
    await this.#models.applications.destroy({ where: { imageId: id }, transaction });
    await this.#writeApplications(id, metadata, transaction);
  }

  async setState(id: string, state: ImageRecord['state'], transaction: Transaction) {
    await this.#models.images.update({ state }, { where: { id }, transaction });
  }

  async setPart(imageId: string, part: PartName, content: Part, transaction: Transaction) {
    await this.removePart(imageId, part, transaction);
    await this.#models.parts.create(
      { imageId, part, ...content, virtualBytes: 0 },
      { transaction },
    );
  }

  async setVirtualSize(imageId: string, part: PartName, bytes: number, transaction: Transaction) {
    await this.#models.parts.update(
      { virtualBytes: bytes },
      { where: { imageId, part }, transaction },
    );
  }

  async removePart(imageId: string, part: PartName, transaction: Transaction) {
    await this.#models.parts.destroy({ where: { imageId, part }, transaction });
  }

  async remove(id: string, transaction: Transaction) {
    await this.#models.applications.destroy({ where: { imageId: id }, transaction });
    await this.#models.images.destroy({ where: { id }, transaction });
  }

  /** To be called in the transaction of the change. */
  async note(before: ImageRecord | undefined, id: string, transaction: Transaction) {
    const after = await this.find(id, transaction);
    const exists = after?.state === 'DELETING' ? undefined : after;
    const body = imageChange(before, exists);
    const ownerDn = (after ?? before)?.owner ?? '';
    if (body) await this.changes.append({ type: 'image', subject: id, ownerDn, body }, transaction);
  }

  async isReferred(sha256: string): Promise<boolean> {
    return (await this.#models.parts.count({ where: { sha256 } })) > 0;
  }

  async #writeApplications(imageId: string, metadata: ImageMetadata, transaction: Transaction) {
    const rows = metadata.applications.map(({ Name, Version }) => ({
      imageId,
      name: Name,
      version: Version,
    }));
    await this.#models.applications.bulkCreate(rows, { transaction });
  }

  async #withParts(rows: ImageColumns[], transaction?: Transaction): Promise<ImageRecord[]> {
    const parts = await this.#models.parts.findAll({
      where: { imageId: { [Op.in]: rows.map(({ id }) => id) } },
      raw: true,
      ...(transaction && { transaction }),
    });
    return rows.map((row) =>
      toRecord(
        row,
        parts.filter(({ imageId }) => imageId === row.id),
      ),
    );
  }
}

function columnsOf(
  metadata: ImageMetadata,
): Omit<ImageColumns, 'id' | 'owner' | 'state' | 'createdMs'> {
  const { name, version, visibility, format, os } = metadata;
  return {
    name,
    version,
    visibility,
    format,
    distribution: os.distribution,
    osVersion: os.version,
    architecture: os.architecture,
    metadata: JSON.stringify(metadata),
  };
}

function toRecord(row: ImageColumns, parts: readonly PartColumns[]): ImageRecord {
  return {
    id: row.id,
    owner: row.owner,
    state: row.state,
    created: formatDate(row.createdMs),
    metadata: ImageMetadata.parse(JSON.parse(row.metadata)),
    parts: Object.fromEntries(
      parts.map(({ part, sha256, sizeBytes, virtualBytes }) => [
        part,
        { sha256, sizeBytes, ...(virtualBytes > 0 && { virtualBytes }) },
      ]),
    ),
  };
}
