import type { Model, ModelStatic, Sequelize } from 'sequelize';
import { column } from '#kernel/persistence/migrate.js';
import type { ImageRecord, PartName } from '../contract.js';

export type ImageColumns = {
  id: string;
  owner: string;
  state: ImageRecord['state'];
  createdMs: number;
  name: string;
  version: string;
  visibility: string;
  format: string;
  distribution: string;
  osVersion: string;
  architecture: string;
  /** JSON; the columns above repeat from it what is searched */
  metadata: string;
};
export type PartColumns = {
  imageId: string;
  part: PartName;
  sha256: string;
  sizeBytes: number;
  /** Of a disk; 0: it is none, or was published before this was noted. */
  virtualBytes: number;
};
export type ApplicationColumns = { imageId: string; name: string; version: string };

type Table<Columns extends object> = ModelStatic<Model<Columns> & Columns>;
export type Models = {
  readonly images: Table<ImageColumns>;
  readonly parts: Table<PartColumns>;
  readonly applications: Table<ApplicationColumns>;
};

const key = { primaryKey: true } as const;

/** Defined on each database anew: a class can belong to one only. */
export function defineModels(sequelize: Sequelize): Models {
  return {
    images: sequelize.define(
      'image',
      {
        id: column.id(key),
        owner: column.text(),
        state: column.word(),
        createdMs: column.number(),
        name: column.word(),
        version: column.word(),
        visibility: column.word(),
        format: column.word(),
        distribution: column.word(),
        osVersion: column.word(),
        architecture: column.word(),
        metadata: column.text(),
      },
      { tableName: 'images' },
    ),
    parts: sequelize.define(
      'imagePart',
      {
        imageId: column.id(key),
        part: column.word(key),
        sha256: column.word(),
        sizeBytes: column.number(),
        virtualBytes: column.number({ defaultValue: 0 }),
      },
      { tableName: 'image_parts' },
    ),
    applications: sequelize.define(
      'imageApplication',
      {
        imageId: column.id(key),
        name: column.word(key),
        version: column.word(key),
      },
      { tableName: 'image_applications' },
    ),
  };
}
