import { Transaction, type Model, type QueryInterface } from 'sequelize';
import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { Database } from '#kernel/persistence/database.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import type { Statement } from '#kernel/persistence/sql.js';

/** Of the execution engine, which its jobs are fenced by. */
export const engineLease = 'xnjs';
const takenOver = 'another server has taken over';

/** After the tables of jobs. */
export const leaseMigrations: readonly Migration[] = [
  {
    name: '001-leases',
    up: (schema, transaction) =>
      schema.createTable(
        'leases',
        { name: column.word({ primaryKey: true }), epoch: column.number() },
        { transaction },
      ),
  },
  {
    name: '002-fenced-jobs',
    up: (schema, transaction) => fenceRows(schema, 'jobs', transaction),
  },
];

/**
 * Each row tells the epoch of the server that writes it: one below the newest is refused, by the statement
 * itself. Jobs are written by one statement, which has no transaction around it that could look at the lease.
 */
async function fenceRows(
  { sequelize }: QueryInterface,
  table: string,
  transaction: Transaction,
): Promise<void> {
  const run = (sql: string): Promise<unknown> => sequelize.query(sql, { transaction });
  const newest = `FROM leases WHERE name = '${engineLease}'`;
  if (sequelize.getDialect() === 'sqlite') {
    for (const when of ['INSERT', 'UPDATE'])
      await run(
        `CREATE TRIGGER ${table}_fence_${when.toLowerCase()} BEFORE ${when} ON ${table} ` +
          `WHEN new.epoch < (SELECT epoch ${newest}) BEGIN SELECT RAISE(ABORT, '${takenOver}'); END`,
      );
    return;
  }
  // the lock makes whoever takes the lease wait for writes that are under way
  await run(
    `CREATE FUNCTION ${table}_fence() RETURNS trigger LANGUAGE plpgsql AS ` +
      `$$ DECLARE newest bigint; BEGIN SELECT epoch INTO newest ${newest} FOR SHARE; ` +
      `IF NEW.epoch < newest THEN RAISE EXCEPTION '${takenOver}'; END IF; RETURN NEW; END $$`,
  );
  await run(
    `CREATE TRIGGER ${table}_fence BEFORE INSERT OR UPDATE ON ${table} ` +
      `FOR EACH ROW EXECUTE FUNCTION ${table}_fence()`,
  );
}

type Row = { name: string; epoch: number };

export type LeaseOptions = {
  readonly database: Database;
  /** Of what only one server may do. */
  readonly name: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly intervalMs?: number;
};

/**
 * The right to act on what a database describes: of several servers on it the one that started last has it.
 * The others notice at their next write, or their next look, whichever comes first, and never get it back.
 */
export class Lease implements AsyncDisposable {
  readonly epoch: number;
  /** Resolves when another server has taken it. */
  readonly lost: Promise<void>;
  readonly #rows: ReturnType<typeof defineRows>;
  readonly #options: LeaseOptions;
  readonly #closing = new AbortController();
  readonly #watching: Promise<void>;
  #lose!: () => void;
  #isLost = false;

  private constructor(options: LeaseOptions, epoch: number) {
    this.#options = options;
    this.epoch = epoch;
    this.#rows = defineRows(options.database);
    this.lost = new Promise((resolve) => (this.#lose = resolve));
    this.#watching = this.#watch();
  }

  /** From now on no server that has it writes. @throws `DATABASE_UNAVAILABLE` */
  static async take(options: LeaseOptions): Promise<Lease> {
    const { database, name, log } = options;
    const rows = defineRows(database);
    const epoch = await database.transaction(async (transaction) => {
      const lock = Transaction.LOCK.UPDATE;
      const before = await rows.findByPk(name, { transaction, lock });
      const next = (before?.epoch ?? 0) + 1;
      await rows.upsert({ name, epoch: next }, { transaction });
      return next;
    });
    log.info({ lease: name, epoch }, 'lease taken');
    return new Lease(options, epoch);
  }

  /**
   * @param transaction of the write that is to land only if this server may
   * @throws `SITE_UNAVAILABLE` another server has it
   */
  async require(transaction?: Transaction): Promise<void> {
    const { name, log } = this.#options;
    if (!this.#isLost) {
      const within = transaction && { transaction, lock: Transaction.LOCK.SHARE };
      const row = await this.#rows.findByPk(name, within);
      if (row?.epoch === this.epoch) return;
      this.#isLost = true;
      log.error({ lease: name, epoch: this.epoch }, 'another server has taken over: this one ends');
      this.#lose();
    }
    throw new GridError('SITE_UNAVAILABLE', takenOver);
  }

  /** In front of others, for `Database.write`: they fail together if another server has it. */
  get fence(): Statement[] {
    const values = [this.#options.name, this.epoch];
    // a second row of that name cannot be
    const text =
      'INSERT INTO leases (name, epoch) SELECT name, epoch FROM leases WHERE name = $1 AND epoch <> $2';
    const isPostgres = this.#options.database.sequelize.getDialect() === 'postgres';
    const lock = 'SELECT epoch FROM leases WHERE name = $1 FOR SHARE';
    return [
      ...(isPostgres ? [{ text: lock, values: [this.#options.name] }] : []),
      { text, values },
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.#watching;
  }

  async #watch(): Promise<void> {
    const { clock, log, intervalMs = 2_000 } = this.#options;
    const { signal } = this.#closing;
    for (;;) {
      await clock.sleep(intervalMs, signal).catch(() => undefined);
      if (signal.aborted || this.#isLost) return;
      await this.require().catch((error: unknown) => {
        log.debug({ err: errorText(error) }, 'the lease could not be looked at');
      });
    }
  }
}

function defineRows(database: Database) {
  return database.sequelize.define<Model<Row> & Row>(
    'lease',
    { name: column.word({ primaryKey: true }), epoch: column.number() },
    { tableName: 'leases' },
  );
}
