import { createChangeTable } from '#kernel/persistence/change-log.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';

const key = { primaryKey: true } as const;
const image = { model: 'images', key: 'id' } as const;

/** The {@link ChangeLog} of the repository. */
export const changesTable = 'image_changes';

export const migrations: readonly Migration[] = [
  {
    name: '001-images',
    up: async (schema, transaction) => {
      const options = { transaction };
      await schema.createTable(
        'images',
        {
          id: column.id(key),
          owner: column.text(),
          state: column.word(),
          created_ms: column.number(),
          name: column.word(),
          version: column.word(),
          visibility: column.word(),
          format: column.word(),
          distribution: column.word(),
          os_version: column.word(),
          architecture: column.word(),
          metadata: column.text(),
        },
        options,
      );
      for (const fields of [
        ['created_ms', 'id'],
        ['name', 'version'],
        ['distribution', 'os_version'],
        ['owner'],
        // none on `state`: nearly all are the same, and SQLite would prefer it to better ones
      ])
        await schema.addIndex('images', fields, options);
      await schema.createTable(
        'image_parts',
        {
          image_id: column.id({ ...key, references: image }),
          part: column.word(key),
          sha256: column.word(),
          size_bytes: column.number(),
        },
        options,
      );
      await schema.addIndex('image_parts', ['sha256'], options);
      await schema.createTable(
        'image_applications',
        {
          image_id: column.id({ ...key, references: image }),
          name: column.word(key),
          version: column.word(key),
        },
        options,
      );
      await schema.addIndex('image_applications', ['name', 'version'], options);
    },
  },
  {
    name: '002-image-changes',
    up: (schema, transaction) => createChangeTable(schema, changesTable, transaction),
  },
  {
    name: '003-virtual-sizes',
    up: (schema, transaction) =>
      schema.addColumn('image_parts', 'virtual_bytes', column.number({ defaultValue: 0 }), {
        transaction,
      }),
  },
];
