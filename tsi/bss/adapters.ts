import type { Bss, Host } from './bss.js';
import { NoBatch } from './nobatch.js';
import { Slurm } from './slurm.js';

export type BssContext = {
  readonly host: Host;
  /** Where the adapter may keep what must outlive the agent. */
  readonly stateDir: string;
  /** The keys of `tsi.properties`. */
  readonly properties: ReadonlyMap<string, string>;
};

/** The batch systems that `tsi.bss` can name: a row is all that a new one needs. */
const adapters: ReadonlyMap<string, (context: BssContext) => Bss> = new Map([
  ['nobatch', ({ host, stateDir }: BssContext): Bss => new NoBatch(host, stateDir)],
  ['slurm', (context: BssContext): Bss => new Slurm(context)],
]);

/** @throws TypeError for a name that is none */
export function createBss(name: string, context: BssContext): Bss {
  const create = adapters.get(name);
  if (create) return create(context);
  throw new TypeError(`tsi.bss must be one of ${[...adapters.keys()].join(' ')}, not ${name}`);
}
