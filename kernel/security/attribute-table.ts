import { randomUUID } from 'node:crypto';
import type { Model } from 'sequelize';
import { z } from 'zod';
import { systemClock, type Clock } from '#kernel/clock.js';
import { describeIssues } from '#kernel/config.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Database } from '#kernel/persistence/database.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import type { AttributeSource, AttributeValues } from './attributes.js';
import { isDnPattern, parseDnPattern, type DnPattern } from './dn-pattern.js';
import { dnKey, normalizeDn } from './dn.js';

const word = z.string().regex(/^[^\0\r\n,:\s]{1,128}$/, 'must be a word without commas or colons');
const words = z.array(word).max(100);

/** A row: whom it is about, and what he is here. */
const Mapping = z.strictObject({
  /** A name, or a pattern of names: `CN=*,O=Physics,C=EU`. */
  dn: z
    .string()
    .max(1024)
    .transform((text, context) => {
      try {
        parseDnPattern(text);
        return isDnPattern(text) ? text : normalizeDn(text);
      } catch (error) {
        context.addIssue(errorText(error));
        return z.NEVER;
      }
    }),
  role: word.optional(),
  logins: words.optional(),
  groups: words.optional(),
  queues: words.optional(),
});
export type Mapping = z.output<typeof Mapping>;
export type NewMapping = z.input<typeof Mapping>;

export const mappingMigrations: readonly Migration[] = [
  {
    name: '001-user-mappings',
    up: async (schema, transaction) => {
      const columns = {
        id: column.id({ primaryKey: true }),
        name_key: column.text(),
        is_pattern: column.flag(),
        created_ms: column.number(),
        document: column.text(),
      };
      await schema.createTable('user_mappings', columns, { transaction });
      const index = { name: 'user_mappings_by_name', fields: ['name_key'], unique: true };
      await schema.addIndex('user_mappings', { ...index, transaction });
    },
  },
];

type Row = {
  id: string;
  /** Of a name; of a pattern its text. */
  nameKey: string;
  isPattern: boolean;
  createdMs: number;
  document: string;
};

/** Which names are whom here, in a table (UNICORE's XUUDB): a name before patterns, patterns by age. */
export type MappingTable = {
  find(dn: string): Promise<AttributeValues | undefined>;
  list(): Promise<Mapping[]>;
  /** @throws `CONFLICT` there is one for that name; `BAD_REQUEST` naming the member */
  add(mapping: NewMapping): Promise<Mapping>;
  /** @throws `NOT_FOUND` */
  remove(dn: string): Promise<void>;
};

/** {@link MappingTable} in a database, after {@link mappingMigrations}. */
export function createMappingTable(
  database: Database,
  { clock = systemClock, recheckMs = 1_000 }: { clock?: Clock; recheckMs?: number } = {},
): MappingTable {
  const rows = defineRows(database);
  const cache = cached(() => readMappings(rows), clock, recheckMs);
  return {
    async find(dn) {
      const { exact, patterns } = await cache.get();
      const mapping = exact.get(dnKey(dn)) ?? patterns.find(({ fits }) => fits(dn))?.mapping;
      return mapping && toValues(mapping);
    },
    async list() {
      const found = await rows.findAll({ order: [['createdMs', 'ASC']] });
      return found.map(({ document }) => JSON.parse(document) as Mapping);
    },
    async add(wish) {
      const parsed = Mapping.safeParse(wish);
      if (!parsed.success) throw new GridError('BAD_REQUEST', describeIssues(parsed.error));
      const mapping = parsed.data;
      const row: Row = {
        id: randomUUID(),
        nameKey: keyOf(mapping.dn),
        isPattern: isDnPattern(mapping.dn),
        createdMs: clock.now(),
        document: JSON.stringify(mapping),
      };
      await database.transaction(async (transaction) => {
        const taken = await rows.findOne({ where: { nameKey: row.nameKey }, transaction });
        if (taken) throw new GridError('CONFLICT', `there is a mapping of ${mapping.dn}`);
        await rows.create(row, { transaction });
      });
      cache.forget();
      return mapping;
    },
    async remove(dn) {
      const where = { nameKey: keyOf(dn) };
      const removed = await database.transaction((transaction) =>
        rows.destroy({ where, transaction }),
      );
      cache.forget();
      if (removed === 0) throw new GridError('NOT_FOUND', `there is no mapping of ${dn}`);
    },
  };
}

function keyOf(dn: string): string {
  return isDnPattern(dn) ? dn : dnKey(dn);
}

function defineRows({ sequelize }: Database) {
  return sequelize.define<Model<Row> & Row>(
    'userMapping',
    {
      id: column.id({ primaryKey: true }),
      nameKey: column.text(),
      isPattern: column.flag(),
      createdMs: column.number(),
      document: column.text(),
    },
    { tableName: 'user_mappings' },
  );
}

type Known = {
  readonly exact: ReadonlyMap<string, Mapping>;
  readonly patterns: readonly { readonly fits: DnPattern; readonly mapping: Mapping }[];
};

/** Everything, since it is asked for with every request. */
async function readMappings(rows: ReturnType<typeof defineRows>): Promise<Known> {
  const found = await rows.findAll({ order: [['createdMs', 'ASC'], ['id', 'ASC']] }); // prettier-ignore
  const all = found.map((row) => ({ row, mapping: JSON.parse(row.document) as Mapping }));
  const patterns = all.filter(({ row }) => row.isPattern);
  return {
    exact: new Map(all.map(({ row, mapping }) => [row.nameKey, mapping])),
    patterns: patterns.map(({ mapping }) => ({ fits: parseDnPattern(mapping.dn), mapping })),
  };
}

/** Others may change it, so it is not believed for long. */
function cached<T>(read: () => Promise<T>, clock: Clock, maxAgeMs: number) {
  let known: { readonly atMs: number; readonly content: Promise<T> } | undefined;
  const forget = (): void => {
    known = undefined;
  };
  return {
    get(): Promise<T> {
      if (known && clock.now() - known.atMs < maxAgeMs) return known.content;
      const content = read();
      const entry = { atMs: clock.now(), content };
      known = entry;
      // Not a later one, which may be better
      content.catch(() => known === entry && forget());
      return content;
    },
    forget,
  };
}

function toValues({ dn, role, logins, groups, queues }: Mapping): AttributeValues {
  return {
    ...(!isDnPattern(dn) && { dn }),
    ...(role !== undefined && { roles: role === 'admin' ? ['admin', 'user'] : [role] }),
    ...(logins && { logins }),
    ...(groups && { groups }),
    ...(queues && { queues }),
  };
}

export function tableSource(table: MappingTable): AttributeSource {
  return { name: 'table', find: ({ dn }) => table.find(dn) };
}
