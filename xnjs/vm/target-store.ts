import type { TargetSystem } from './target-system.js';

/** The durable records. `save` returns when the record would survive a power cut. */
export type TargetStore = {
  all(): Promise<TargetSystem[]>;
  save(system: TargetSystem): Promise<void>;
  remove(id: string): Promise<void>;
};
