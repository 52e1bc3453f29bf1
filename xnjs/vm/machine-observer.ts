/** What the controller tells of its own work. */
export type MachineObserver = {
  /** All records were looked at, and what hypervisors have was compared with them. */
  readonly reconciled: (ms: number) => void;
  /** A machine was to start by a fast tier, and is booted instead. */
  readonly fellBack: (tier: string) => void;
  /** A hypervisor was asked how its machines are. */
  readonly looked: (driver: string, ms: number) => void;
};
