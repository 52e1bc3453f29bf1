import type { Agents } from './agents.js';
import type { FilesOfMachines } from './files-of-machines.js';
import type { SystemRecords } from './system-records.js';
import type { Evidence, TargetSystem } from './target-system.js';
import type { TargetSystemsOptions } from './target-systems-options.js';

export type StopsOptions = {
  readonly systems: Pick<TargetSystemsOptions, 'hosts' | 'clock' | 'bootTimeoutMs'>;
  readonly records: SystemRecords;
  readonly agents: Pick<Agents, 'isCurrent'>;
  readonly files: Pick<FilesOfMachines, 'consoleTail'>;
  readonly stopping: AbortSignal;
};

/** Octets of a console that are told. */
const consoleBytes = 400;

/** Machines that run no longer, or never came up. */
export class Stops {
  readonly #options: StopsOptions;

  constructor(options: StopsOptions) {
    this.#options = options;
  }

  /**
   * Somebody says that it has stopped. That may be old, or of a machine that another has taken the place of: it is
   * looked again.
   */
  async onStopped(id: string, reason: string): Promise<void> {
    const { records } = this.#options;
    await records.queue(id, () => this.#stopped(id, reason));
    records.schedule(id);
  }

  async #stopped(id: string, reason: string): Promise<void> {
    const { records, agents, systems, files } = this.#options;
    const record = records.find(id);
    if (!record || !agents.isCurrent(record)) return;
    // whoever performs that looks for itself; the same end told twice must not end what was begun for it
    if (record.undertaking) return;
    const now = await systems.hosts.of(record).find(record.driver, id);
    if (now && now.state !== 'stopped') return;
    if (now?.isSaved) {
      const evidence = this.#evidence('hypervisor', 'parked on disk by somebody else');
      await records.applyNow(id, { type: 'frozen', evidence });
      return;
    }
    const starting = record.state === 'INITIALIZING';
    const console = starting ? await files.consoleTail(record, consoleBytes) : '';
    const fact = console === '' ? reason : `${reason}; its console ends: ${console}`;
    await records.applyNow(id, { type: 'stopped', evidence: this.#evidence('hypervisor', fact) });
  }

  /** Resolves when its agent has answered, or it has FAILED as none has. */
  async afterBootTimeout({ id, generation }: TargetSystem): Promise<void> {
    const { records, files, stopping } = this.#options;
    const { clock, bootTimeoutMs } = this.#options.systems;
    let record: TargetSystem | undefined;
    do {
      await clock.sleep(bootTimeoutMs, stopping).catch(() => undefined);
      if (stopping.aborted) return;
      record = records.find(id);
      // one that was halted while it booted has its time anew
    } while (record?.state === 'PAUSED' && record.views?.agent === undefined);
    if (record?.state !== 'INITIALIZING' || record.generation !== generation) return;
    const console = await files.consoleTail(record, consoleBytes);
    const seconds = Math.round(bootTimeoutMs / 1_000);
    const fact =
      `no agent answered within ${seconds} s of its start; ` +
      (console === '' ? 'its console is empty' : `its console ends: ${console}`);
    await records.apply(id, { type: 'failed', evidence: this.#evidence('server', fact) });
  }

  #evidence(source: Evidence['source'], fact: string): Evidence {
    return { source, fact, atMs: this.#options.systems.clock.now() };
  }
}
