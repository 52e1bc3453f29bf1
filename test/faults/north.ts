import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog as log } from '#kernel/log.js';
import type { Database } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import type { Scope } from '#kernel/scope.js';
import { createSettingsStore, settingsMigrations } from '#xnjs/persistence/settings-store.js';
import type { Host } from '#xnjs/vm/hosts/host.js';
import { copiesIn } from '#xnjs/vm/hosts/open-hosts.js';
import { HostStorage } from '#xnjs/vm/hosts/storage/host-storage.js';
import { LibvirtHypervisor, type LibvirtHypervisorOptions } from '#xnjs/vm/libvirt-hypervisor.js';

/** Its agents are the fakes of `startAgents`. */
export class NorthHypervisor extends LibvirtHypervisor {
  readonly #agents: string;

  constructor(options: LibvirtHypervisorOptions, agents: string) {
    super(options);
    this.#agents = agents;
  }

  override openChannel() {
    return Promise.resolve(connect(this.#agents));
  }
}

export type NorthOptions = {
  readonly uri: string;
  /** Where the fake agents listen. */
  readonly agents: string;
  readonly database: Database;
  /** A storage pool of its own; absent: it shares our files. */
  readonly pool?: string | undefined;
  readonly hypervisor?: (options: LibvirtHypervisorOptions, agents: string) => LibvirtHypervisor;
};

/** Another host, on a libvirtd of its own. */
export async function openNorth(
  scope: Scope,
  { uri, agents, database, pool, ...more }: NorthOptions,
  { installationId, clock }: Pick<LibvirtHypervisorOptions, 'installationId' | 'clock'>,
): Promise<Host> {
  const open = async (): Promise<LibvirtClient> => {
    const client = scope.use(new LibvirtClient({ uri, log, callTimeoutMs: 60_000 }));
    client.start();
    await client.ready(AbortSignal.timeout(5_000)).catch(() => undefined);
    return client;
  };
  const [client, probe] = [await open(), await open()];
  const make =
    more.hypervisor ??
    ((options: LibvirtHypervisorOptions) => new NorthHypervisor(options, agents));
  const common = { installationId, clock, log };
  const clients = { clients: { qemu: client }, probes: { qemu: probe } };
  const own = { client, host: 'north', maxBytes: 256 * 1024 ** 2 };
  await migrate(database, 'xnjs', settingsMigrations, log);
  const store = copiesIn(createSettingsStore(database), 'north');
  return {
    name: 'north',
    hypervisor: make({ ...clients, ...common }, agents),
    ...{ drivers: ['qemu'], labels: ['far'], drain: false, reserved: {} },
    capacity: { cores: 8, memoryMiB: 4_096 },
    ...(pool !== undefined && {
      storage: scope.use(new HostStorage({ ...own, ...common, pool, store })),
    }),
  };
}

/** As an image repository tells of a part. */
export async function contentsOf(path: string) {
  const data = await readFile(path);
  const sha256 = createHash('sha256').update(data).digest('hex');
  return { sha256, sizeBytes: data.length };
}
