import type { Agents } from './agents.js';
import type { FilesOfMachines } from './files-of-machines.js';
import type { SystemRecords } from './system-records.js';
import type { Evidence, TargetSystem } from './target-system.js';
import type { TargetSystemsOptions } from './target-systems-options.js';
import { isAlive, viewsOf } from './views.js';

export type StopsOptions = {
  readonly systems: Pick<TargetSystemsOptions, 'hosts' | 'clock' | 'bootTimeoutMs'>;
  readonly records: SystemRecords;
  readonly agents: Pick<Agents, 'isCurrent'>;
  readonly files: Pick<FilesOfMachines, 'consoleTail'>;
  readonly stopping: AbortSignal;
};

/** Octets of a console that are told. */
const consoleBytes = 400;
/** How often one that starts is looked at. */
const lookMs = 1_000;

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

  /**
   * Resolves when its agent has answered, or it has FAILED as none has. Only time counts in which it is known to
   * run: while it is halted, or its hypervisor is silent, nobody can tell how far it has come.
   */
  async afterBootTimeout({ id, generation }: TargetSystem): Promise<void> {
    const { records, stopping } = this.#options;
    const { clock, bootTimeoutMs } = this.#options.systems;
    for (let runMs = 0; ;) {
      const fromMs = clock.now();
      await clock.sleep(Math.min(bootTimeoutMs, lookMs), stopping).catch(() => undefined);
      const record = records.find(id);
      if (stopping.aborted || !record || !isStarting(record)) return;
      if (record.generation !== generation) return;
      if (isSeenToRun(record)) runMs += clock.now() - fromMs;
      // what could not be stored is tried again at the next look
      if (runMs >= bootTimeoutMs) await this.#giveUp(id).catch(() => undefined);
    }
  }

  async #giveUp(id: string): Promise<void> {
    const { records, files, systems } = this.#options;
    await records.queue(id, async () => {
      const record = records.find(id);
      if (!record || !isStarting(record) || !isSeenToRun(record)) return;
      const console = await files.consoleTail(record, consoleBytes);
      const seconds = Math.round(systems.bootTimeoutMs / 1_000);
      const fact =
        `no agent answered within ${seconds} s of its start; ` +
        (console === '' ? 'its console is empty' : `its console ends: ${console}`);
      await records.applyNow(id, { type: 'failed', evidence: this.#evidence('server', fact) });
    });
    records.schedule(id);
  }

  #evidence(source: Evidence['source'], fact: string): Evidence {
    return { source, fact, atMs: this.#options.systems.clock.now() };
  }
}

/** Its agent has never answered. */
function isStarting(record: TargetSystem): boolean {
  return isAlive(record) && viewsOf(record).agent === undefined;
}

function isSeenToRun(record: TargetSystem): boolean {
  const { hypervisor } = viewsOf(record);
  return record.state === 'INITIALIZING' && (hypervisor?.says ?? 'running') === 'running';
}
