import { randomUUID } from 'node:crypto';
import { asGridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { siteChange } from '../changes/site-change.js';
import type { HostPlacement } from './hosts/host-placement.js';
import type { Machines } from './machines.js';
import type { Plan, Planner } from './placement/planner.js';
import type { Quota } from './placement/quota.js';
import type { SystemRecords } from './system-records.js';
import type { TargetSystem } from './target-system.js';
import type { NewTargetSystem, TargetSystemsOptions } from './target-systems-options.js';
import type { SparePool } from './tiers/spare-pool.js';
import type { Templates } from './tiers/templates.js';
import type { Volumes } from './volumes/volumes.js';

export type CreationOptions = {
  readonly systems: Pick<TargetSystemsOptions, 'clock' | 'networks' | 'recovery'>;
  readonly records: SystemRecords;
  readonly places: HostPlacement;
  readonly planner: Planner;
  readonly machines: Pick<Machines, 'adopt'>;
  readonly spares: SparePool | undefined;
  readonly templates: Templates | undefined;
  readonly volumes: Volumes | undefined;
  readonly log: Log;
};

/** What becomes of a wish: a record, by the quickest start tier that there is for it. */
export class Creation {
  readonly #options: CreationOptions;

  constructor(options: CreationOptions) {
    this.#options = options;
  }

  /** Stores the wish. @throws what {@link Planner.plan} does; `QUOTA_EXCEEDED` */
  async create(wish: NewTargetSystem): Promise<TargetSystem> {
    const { systems, planner, places } = this.#options;
    const requestedMs = systems.clock.now();
    const plan = await planner.plan(wish);
    const id = randomUUID();
    const { release, ...place } = places.hold(id, plan, wish.hostLabels);
    try {
      return await this.#make({ ...plan, ...place }, id, wish, requestedMs);
    } finally {
      release();
    }
  }

  async #make(
    { image, why, quotas, newVolumes, ...plan }: Plan,
    id: string,
    wish: NewTargetSystem,
    requestedMs: number,
  ): Promise<TargetSystem> {
    const { systems, spares, machines, log } = this.#options;
    const draft: TargetSystem = {
      id,
      ownerDn: wish.ownerDn,
      image: { id: image.id, metadata: image.metadata, parts: image.parts },
      choice: why,
      ...plan,
      state: 'INITIALIZING',
      evidence: { source: 'user', fact: 'requested', atMs: requestedMs },
      boot: {},
      tags: wish.tags,
      ...(wish.context && { context: wish.context }),
      ...(systems.recovery && { recovery: systems.recovery }),
      ...wish.ends,
      ...(wish.jobId !== undefined && { jobId: wish.jobId }),
      ...(wish.hostLabels && { hostLabels: wish.hostLabels.labels }),
      createdMs: requestedMs,
    };
    const claimed = (await spares?.claim(draft, quotas)) ?? 'no spares are kept here';
    let record: TargetSystem;
    if (typeof claimed === 'string')
      record = await this.#begin(await this.#chosenTier(draft, claimed), quotas, newVolumes);
    else {
      machines.adopt(claimed);
      ({ record } = claimed);
    }
    const { host, start } = record;
    const about = { vmId: record.id, imageId: image.id, dn: wish.ownerDn, host, start };
    log.info(about, 'target system requested');
    return record;
  }

  /** @param noSpare why it is not a spare */
  async #chosenTier(draft: TargetSystem, noSpare: string): Promise<TargetSystem> {
    const { templates } = this.#options;
    const warm = (await templates?.choose(draft)) ?? 'no memory of machines is saved here';
    if (typeof warm !== 'string') return warm;
    return { ...draft, start: { tier: 'cold', reason: `${noSpare}; ${warm}` } };
  }

  async #begin(
    draft: TargetSystem,
    quotas: readonly Quota[],
    newVolumes: readonly string[],
  ): Promise<TargetSystem> {
    const { records, volumes } = this.#options;
    const { networks } = this.#options.systems;
    await volumes?.attach(draft, newVolumes);
    let record = draft;
    try {
      const card = networks?.promise(draft, records.all());
      record = { ...draft, ...(card && { card }) };
      await records.save(record, siteChange('created', record), quotas);
    } catch (error) {
      // of a failure of the database it tells later whether it was stored
      if (isRefusal(error)) await volumes?.release(record.id, true);
      throw error;
    } finally {
      networks?.settle(record.id);
      volumes?.begun(record.id);
    }
    records.schedule(record.id);
    return record;
  }
}

/** Nothing was stored, for sure. */
function isRefusal(error: unknown): boolean {
  const row = asGridError(error)?.row;
  return row !== undefined && row.http < 500;
}
