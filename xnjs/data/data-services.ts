import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import type { Database } from '#kernel/persistence/database.js';
import { Scope } from '#kernel/scope.js';
import { createRecordStores } from '../persistence/sql-record-store.js';
import { Reaper } from '../reaper.js';
import type { SingleTransfers } from '../staging/staging.js';
import type { Storages } from '../storage/storages.js';
import type { Targets } from '../target.js';
import type { SavedImages } from '../vm/snapshots/saved-images.js';
import { ClientTransfers, type ClientTransfer } from './client-transfers.js';
import type { DataConfig } from './config.js';
import type { ServerTransfer } from './server-transfer.js';
import { ServerTransfers } from './server-transfers.js';
import { Shares, type Share } from './shares.js';
import { Tasks, type Task } from './tasks.js';

export type DataServicesOptions = {
  readonly config: DataConfig;
  readonly database: Database;
  readonly storages: Storages;
  readonly targets: Pick<Targets, 'find'>;
  readonly staging: SingleTransfers;
  readonly savedImages: Pick<SavedImages, 'save'>;
  readonly clock: Clock;
  readonly log: Log;
};

/** What is done with the files of storages beside reading and writing them. */
export class DataServices implements AsyncDisposable {
  readonly clientTransfers: ClientTransfers;
  readonly transfers: ServerTransfers;
  readonly tasks: Tasks;
  readonly shares: Shares;
  readonly #reaper: Reaper;
  readonly #scope = new Scope();

  constructor(options: DataServicesOptions) {
    const { database, config, clock, log } = options;
    const store = createRecordStores(database);
    this.clientTransfers = new ClientTransfers({
      ...options,
      store: store<ClientTransfer>('client-transfer'),
    });
    this.transfers = this.#scope.use(
      new ServerTransfers({ ...options, store: store<ServerTransfer>('transfer') }),
    );
    this.tasks = this.#scope.use(new Tasks({ ...options, store: store<Task>('task') }));
    this.shares = new Shares({ ...options, store: store<Share>('share') });
    const { clientTransfers, transfers, tasks, shares } = this;
    this.#reaper = this.#scope.use(
      new Reaper(
        { clock, log, intervalMs: config.reaperIntervalMs },
        clientTransfers.records.mortals((id) => clientTransfers.destroy(id)),
        transfers.records.mortals((id) => transfers.destroy(id)),
        tasks.records.mortals((id) => tasks.destroy(id)),
        shares.records.mortals((id) => shares.records.remove(id)),
      ),
    );
  }

  /** Goes on with what was begun. Storages must be known by now. */
  async start(): Promise<void> {
    await this.clientTransfers.start();
    await this.shares.start();
    await this.transfers.start();
    await this.tasks.start();
    this.#reaper.start();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#scope.close();
  }
}
