import type { Duplex } from 'node:stream';
import { GridError } from '#kernel/errors.js';
import type { FilesOfMachines } from './files-of-machines.js';
import { isLocal, type Seat } from './hosts/host.js';
import type { Hypervisor } from './hypervisor.js';
import { connectScreen, readPng } from './screen.js';
import { isGone } from './state.js';
import type { SystemRecords } from './system-records.js';
import type { TargetSystem } from './target-system.js';
import type { Workspace } from './workspace.js';

export type MachineConsolesOptions = {
  readonly hosts: {
    of(seat: Pick<Seat, 'host'>): Pick<Hypervisor, 'openConsole' | 'screenshot'>;
  };
  readonly files: Pick<FilesOfMachines, 'consoleTail'>;
  readonly workspace: Pick<Workspace, 'screenSocket'>;
  readonly records: Pick<SystemRecords, 'get'>;
  /** Somebody works there until this has ended. */
  readonly usedBy: (id: string, connection: Duplex) => void;
};

/** Serial consoles and screens of the machines of target systems. */
export class MachineConsoles {
  readonly #options: MachineConsolesOptions;

  constructor(options: MachineConsolesOptions) {
    this.#options = options;
  }

  /** What the console said last, for people who look for what went wrong. */
  async tail(id: string): Promise<string> {
    return await this.#options.files.consoleTail(this.#options.records.get(id));
  }

  /**
   * Both directions of the console, also while the machine starts.
   * @throws `CONFLICT` there is no machine, or somebody else has it; `HYPERVISOR_UNAVAILABLE`
   */
  async open(id: string, force: boolean): Promise<Duplex> {
    const system = this.#running(id);
    const { hosts, usedBy } = this.#options;
    const console = await hosts.of(system).openConsole(system.driver, id, force);
    usedBy(id, console);
    return console;
  }

  /** The screen as it is, in PNG. @throws as {@link openScreen} */
  async screenshot(id: string): Promise<Buffer> {
    const system = this.#withScreen(id);
    return await readPng(await this.#options.hosts.of(system).screenshot(system.driver, id));
  }

  /**
   * A connection to its screen, by VNC.
   * @throws `CONFLICT` it has none, does not run, or runs on a host whose sockets are not here
   */
  async openScreen(id: string): Promise<Duplex> {
    const system = this.#withScreen(id);
    if (!isLocal(system)) {
      const text = `the screen is on host ${system.host}, out of reach: only pictures of it can be had`;
      throw new GridError('CONFLICT', text, { vmId: id });
    }
    const screen = await connectScreen(this.#options.workspace.screenSocket(system));
    this.#options.usedBy(id, screen);
    return screen;
  }

  #withScreen(id: string): TargetSystem {
    const system = this.#running(id);
    if (!system.image.metadata.display)
      throw new GridError('CONFLICT', 'the image has no screen: its metadata say no display', {
        vmId: id,
      });
    return system;
  }

  #running(id: string): TargetSystem {
    const system = this.#options.records.get(id);
    if (isGone(system))
      throw new GridError('CONFLICT', 'the machine does not run any more', { vmId: id });
    return system;
  }
}
