import { asGridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { without } from '../job/without.js';
import { changeParameters } from './parameters.js';
import { isPassing } from './passing.js';
import { isGone, VmError } from './state.js';
import type { SystemRecords } from './system-records.js';
import type { ChangeableName, ParameterChange } from './target-system.js';
import type { TargetSystemsOptions } from './target-systems-options.js';

export type MachineParametersOptions = {
  readonly systems: Pick<TargetSystemsOptions, 'hosts' | 'limits'>;
  readonly records: Pick<SystemRecords, 'get' | 'queue' | 'save' | 'schedule'>;
  readonly log: Log;
};

/** What of a machine can be changed while it runs: the wish is in its record, and stays there until it has it. */
export class MachineParameters {
  readonly #options: MachineParametersOptions;

  constructor(options: MachineParametersOptions) {
    this.#options = options;
  }

  /**
   * The wish is stored first; what the hypervisor refuses is taken back, and what it cannot be asked at present is
   * done later.
   * @returns whether it is done; else it is when its machine runs and the hypervisor answers
   * @throws {@link VmError} `BAD_REQUEST` naming the parameter; `HYPERVISOR_FAILED` saying why
   */
  async change(id: string, change: ParameterChange): Promise<boolean> {
    const { records, systems } = this.#options;
    return await records.queue(id, async () => {
      const before = records.get(id);
      if (isGone(before))
        throw new VmError('BAD_REQUEST', `parameters: the machine of ${id} is gone`);
      const parameters = changeParameters(before, change, systems.limits);
      const names = Object.keys(change) as ChangeableName[]; // keys of the type
      const unapplied = [...new Set([...(before.unapplied ?? []), ...names])];
      await records.save({ ...before, parameters, unapplied });
      try {
        return await this.apply(id);
      } catch (error) {
        if (asGridError(error)?.row.retry === true) {
          records.schedule(id);
          return false;
        }
        // some of it may have been done: what was there before is given again
        await records.save({ ...before, unapplied });
        await this.reapply(id);
        throw error;
      }
    });
  }

  /**
   * Gives the machine what its record says and the hypervisor has not confirmed. Only from inside the record's
   * queue; idempotent.
   * @returns `false`: it does not run at present, and is told when it does
   */
  async apply(id: string): Promise<boolean> {
    const { records, systems } = this.#options;
    const record = records.get(id);
    const { unapplied = [] } = record;
    if (unapplied.length === 0) return true;
    const isGiven = await systems.hosts.of(record).setControls(record, unapplied);
    // before there is a domain its definition is still to come, from the record
    const isDone = isGiven || record.state === 'INITIALIZING';
    if (isDone) await records.save(without(record, 'unapplied'));
    return isDone;
  }

  /** The same where nobody waits for it: what is refused stays marked as not confirmed. */
  async reapply(id: string): Promise<void> {
    try {
      await this.apply(id);
    } catch (error) {
      if (isPassing(error)) throw error;
      const { log } = this.#options;
      log.warn({ vmId: id, err: error }, 'parameters of a machine could not be changed');
    }
  }
}
