import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { DataTypes, QueryTypes, UniqueConstraintError } from 'sequelize';
import { openDatabase, type Database } from '#kernel/persistence/database.js';
import { migrate, type Migration } from '#kernel/persistence/migrate.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { mountTinyDisk } from './tiny-disk.js';
import { noPostgres, startPostgres } from './postgres.js';

const counters: Migration = {
  name: '001-counters',
  up: (schema, transaction) =>
    schema.createTable(
      'counters',
      { name: { type: DataTypes.STRING, primaryKey: true }, value: DataTypes.INTEGER },
      { transaction },
    ),
};

async function sqliteUrl(scope: Scope): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'database-'));
  scope.defer(() => rm(directory, { recursive: true, force: true }));
  return `sqlite:${join(directory, 'test.sqlite')}`;
}

const dialects = [
  ['sqlite', sqliteUrl, false],
  ['postgres', startPostgres, noPostgres],
] as const;

for (const [dialect, start, skip] of dialects)
  describe(`a database in ${dialect}`, { skip }, () => {
    const scope = new Scope();
    let url: string;
    let database: Database;

    before(async () => {
      url = await start(scope);
      database = scope.use(await openDatabase({ url, log: silentLog }));
      await migrate(database, 'test', [counters], silentLog);
    });
    after(() => scope.close());

    const insert = (name: string) =>
      database.transaction(async (transaction) => {
        const schema = database.sequelize.getQueryInterface();
        await schema.bulkInsert('counters', [{ name, value: 0 }], { transaction });
      });
    const read = async (name: string) => {
      const rows = await database.sequelize.query<{ value: number }>(
        'SELECT value FROM counters WHERE name = :name',
        { replacements: { name }, type: QueryTypes.SELECT },
      );
      return rows[0]?.value;
    };

    it('loses none of the increments that are made at the same time', async () => {
      await insert('busy');
      const increment = () =>
        database.transaction(async (transaction) => {
          const lock = dialect === 'sqlite' ? '' : ' FOR UPDATE';
          const [row] = await database.sequelize.query<{ value: number }>(
            `SELECT value FROM counters WHERE name = 'busy'${lock}`,
            { type: QueryTypes.SELECT, transaction },
          );
          await database.sequelize.query(`UPDATE counters SET value = :value WHERE name = 'busy'`, {
            replacements: { value: row!.value + 1 },
            transaction,
          });
        });
      await Promise.all(Array.from({ length: 40 }, increment));
      assert.equal(await read('busy'), 40);
    });

    it('keeps nothing of a transaction that failed', async () => {
      await assert.rejects(
        database.transaction(async (transaction) => {
          const schema = database.sequelize.getQueryInterface();
          await schema.bulkInsert('counters', [{ name: 'gone', value: 0 }], { transaction });
          throw new RangeError('no');
        }),
        RangeError,
      );
      assert.equal(await read('gone'), undefined);
      await insert('after a failure');
    });

    it('writes statements by hand together or not at all', async () => {
      const add = (name: string) => ({
        text: 'INSERT INTO counters (name, value) VALUES ($1, $2)',
        values: [name, 1],
      });
      await database.write([add('first by hand'), add('second by hand')]);
      await assert.rejects(database.write([add('third by hand'), add('first by hand')]));
      await assert.rejects(database.write([add('first by hand')]));
      await database.write([add('after a refusal')]);
      const found = await database.sql<{ name: string }>(
        'SELECT name FROM counters WHERE name IN ($1, $2, $3, $4) ORDER BY name',
        ['first by hand', 'second by hand', 'third by hand', 'after a refusal'],
      );
      assert.deepEqual(
        found.map(({ name }) => name),
        ['after a refusal', 'first by hand', 'second by hand'],
      );
    });

    it('refuses a transaction within a transaction, which would wait for itself', async () => {
      await assert.rejects(
        database.transaction(() => database.transaction(() => Promise.resolve())),
        { code: 'ERR_ASSERTION' },
      );
    });

    it('leaves errors about the data as they are', async () => {
      await insert('twice');
      await assert.rejects(insert('twice'), UniqueConstraintError);
    });

    it('runs a migration once, and a failed one leaves nothing', async () => {
      const failing: Migration = {
        name: '002-broken',
        up: async (schema, transaction) => {
          await schema.createTable('half', { x: DataTypes.INTEGER }, { transaction });
          throw new RangeError('broken');
        },
      };
      await assert.rejects(migrate(database, 'test', [counters, failing], silentLog));
      const mended: Migration = {
        ...failing,
        up: (schema, transaction) =>
          schema.createTable('half', { x: DataTypes.INTEGER }, { transaction }),
      };
      await migrate(database, 'test', [counters, mended], silentLog);
      await migrate(database, 'test', [counters, mended], silentLog);
    });

    it('closes when what is under way is done', async () => {
      const other = await openDatabase({ url, log: silentLog });
      const under = ['u1', 'u2', 'u3'].map((name) =>
        other.transaction(async (transaction) => {
          const values = { replacements: [name], transaction };
          await other.sequelize.query('INSERT INTO counters VALUES (?, 1)', values);
          await other.sequelize.query('UPDATE counters SET value = 2 WHERE name = ?', values);
        }),
      );
      await other.close();
      await Promise.all(under);
      const rows = await database.sql<{ n: number | string }>(
        "SELECT count(*) AS n FROM counters WHERE name LIKE 'u_' AND value = 2",
        [],
      );
      assert.equal(Number(rows[0]?.n), 3);
    });

    it('keeps what was committed when it is opened again, and closes twice', async () => {
      await insert('kept');
      const second = await openDatabase({ url, log: silentLog });
      const rows = await second.sequelize.query(`SELECT 1 FROM counters WHERE name = 'kept'`, {
        type: QueryTypes.SELECT,
      });
      assert.equal(rows.length, 1);
      await second.close();
      await second.close();
    });
  });

describe('trouble with the database', () => {
  it('cannot lose what was committed: each connection is durable', async () => {
    await using scope = new Scope();
    const database = scope.use(await openDatabase({ url: await sqliteUrl(scope), log: silentLog }));
    const pragmas = await database.transaction(async (transaction) => {
      const names = ['journal_mode', 'synchronous', 'foreign_keys', 'busy_timeout'];
      const rows = [];
      for (const name of names)
        rows.push(
          await database.sequelize.query<Record<string, unknown>>(`PRAGMA ${name}`, {
            type: QueryTypes.SELECT,
            transaction,
          }),
        );
      return rows.flat().flatMap((row) => Object.values(row));
    });
    assert.deepEqual(pragmas, ['wal', 2, 1, 5000]);
  });

  it('is CONFIG_INVALID for a URL of no known kind', async () => {
    await assert.rejects(openDatabase({ url: 'mysql://h/d', log: silentLog }), {
      code: 'CONFIG_INVALID',
    });
  });

  it('is DATABASE_UNAVAILABLE when nothing answers, or the file is none', async () => {
    await using scope = new Scope();
    await assert.rejects(openDatabase({ url: 'postgres://u@127.0.0.1:1/d', log: silentLog }), {
      code: 'DATABASE_UNAVAILABLE',
    });
    const url = await sqliteUrl(scope);
    await writeFile(
      url.slice('sqlite:'.length),
      'this is no database, but long enough '.repeat(99),
    );
    const open = async () => {
      const database = scope.use(await openDatabase({ url, log: silentLog }));
      await migrate(database, 'test', [counters], silentLog);
    };
    await assert.rejects(open, { code: 'DATABASE_UNAVAILABLE' });
  });

  it('is STORAGE_FULL on a full disk, and it goes on when there is space again', async (test) => {
    await using scope = new Scope();
    const disk = await mountTinyDisk(scope, '2m');
    if ('skip' in disk) {
      test.skip(disk.skip);
      return;
    }
    const database = scope.use(
      await openDatabase({ url: `sqlite:${disk.path}/full.sqlite`, log: silentLog }),
    );
    await migrate(database, 'test', [counters], silentLog);
    execFileSync('sh', ['-c', `cat /dev/zero > ${disk.path}/ballast 2>/dev/null || true`]);
    const write = () =>
      database.transaction(async (transaction) => {
        const schema = database.sequelize.getQueryInterface();
        const rows = Array.from({ length: 200 }, (_, i) => ({ name: `${i}`.repeat(80), value: i }));
        await schema.bulkInsert('counters', rows, { transaction });
      });
    await assert.rejects(write, { code: 'STORAGE_FULL' });
    await rm(`${disk.path}/ballast`);
    await write();
  });
});
