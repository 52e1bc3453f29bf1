import type { Hosts } from './hosts/hosts.js';
import type { TargetSystem } from './target-system.js';
import { consoleText } from './console-files.js';
import type { Workspace } from './workspace.js';

export type FilesOfMachinesOptions = {
  readonly hosts: Pick<Hosts, 'storageOf' | 'isLost'>;
  readonly workspace: Workspace;
};

type Machine = Pick<TargetSystem, 'id' | 'host'>;

/** Files of machines, wherever they are: in this server's directory, and on hosts with storage of their own. */
export class FilesOfMachines {
  readonly #options: FilesOfMachinesOptions;

  constructor(options: FilesOfMachinesOptions) {
    this.#options = options;
  }

  /**
   * Removes everything of a machine, but what went with a host that was declared lost. One that has nothing is fine.
   * @throws `HYPERVISOR_UNAVAILABLE`
   */
  async remove(machine: Machine): Promise<void> {
    const { hosts, workspace } = this.#options;
    if (!hosts.isLost(machine)) await this.removeThere(machine);
    await workspace.remove(machine.id);
  }

  /** Removes what its host alone has of it. @throws `HYPERVISOR_UNAVAILABLE` */
  async removeThere(machine: Machine): Promise<void> {
    await this.#options.hosts.storageOf(machine)?.remove(machine.id);
  }

  /** The end of what the guest wrote to its console, at most `bytes`, control characters taken out. */
  async consoleTail(machine: Machine, bytes = 2_048): Promise<string> {
    const { hosts, workspace } = this.#options;
    const storage = hosts.storageOf(machine);
    if (!storage) return await workspace.consoleTail(machine.id, bytes);
    return consoleText(await storage.consoleTail(machine.id, bytes));
  }
}
