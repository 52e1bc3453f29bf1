import type { MachineVolume } from '../volumes/volume.js';
import type { OwnContext } from './own-context.js';

/** What a machine is told of itself by what it is started with. */
export type MachineContext = {
  /** Which one it is, `<id>.<generation>`. */
  readonly name: string;
  /** What it calls itself. */
  readonly hostName: string;
  /** By which it proves that, once; absent: it gets it otherwise, or not at all. */
  readonly token?: string;
  readonly own?: OwnContext;
  /** Disks that no agent of ours mounts. */
  readonly volumes?: readonly MachineVolume[];
  /** For programs that are no jobs. */
  readonly variables?: Readonly<Record<string, string>>;
};
