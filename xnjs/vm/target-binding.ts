import type { Duplex } from 'node:stream';
import type { AgentFacts } from '#tsi/protocol/facts.js';
import type { MachineClock } from '#tsi/protocol/machine-clock.js';
import type { MachineIdentity } from '#tsi/protocol/machine-identity.js';
import type { MachineSetup, SetupReport } from '#tsi/protocol/machine-setup.js';
import type { LoginNodes, Tsi, TsiIdentity } from '../tsi/tsi.js';

/** The live side of a target system whose domain runs: how its TSI is reached, and whether it answers. */
export type TargetBinding = AsyncDisposable & {
  /** @throws `TSI_UNAVAILABLE` */
  readonly tsi: Tsi;
  /** Where there are several TSIs. @throws as `tsi` */
  readonly loginNodes?: LoginNodes | undefined;
  /** Called whenever the TSI begins or ceases to answer. */
  onChange(listener: (up: boolean) => void): void;
  /** Called with the id of each job whose end the TSI tells of itself; not all do. @returns ends it */
  onExit?(listener: (bssId: string) => void): () => void;
  /** When it last answered; ms since the epoch, absent before that. */
  readonly heardMs?: number | undefined;
  /** Whether its TSI runs job arrays, where that is for the TSI to say; absent until it has. */
  readonly arrays?: boolean | undefined;
  /** Makes the machine another one, where its TSI can. @throws `TSI_UNAVAILABLE` */
  assume?(identity: MachineIdentity): Promise<void>;
  /** Whether that was done by what its agent was told first of all. */
  readonly isAnother?: boolean;
  /** Has the machine prove once more which one it is. @throws `FORBIDDEN`, `TSI_UNAVAILABLE` */
  prove?(): Promise<void>;
  /** Tells a machine that stood still what time it is, where its TSI can. @throws `TSI_UNAVAILABLE` */
  catchUp?(clock: MachineClock): Promise<void>;
  /**
   * Gives the machine what its owner has asked for, where its TSI can.
   * @returns `undefined`: it does not know how @throws `TSI_UNAVAILABLE`
   */
  setUp?(setup: MachineSetup): Promise<SetupReport | undefined>;
  /** What the guest says of itself, if it does. */
  facts(): Promise<AgentFacts | undefined>;
  /** @see TsiTransport.forward @param loginNode of several; any by default */
  forward(
    identity: TsiIdentity,
    service: string,
    signal: AbortSignal,
    loginNode?: string,
  ): Promise<Duplex>;
};
