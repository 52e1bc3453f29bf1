import { z } from 'zod';
import { errorText, GridError } from '#kernel/errors.js';
import { dnKey } from '#kernel/security/dn.js';
import { ownVolumesMiB } from '../volumes/volume.js';
import { snapshotsMiB } from '../snapshots/snapshot.js';
import type { TargetSystem } from '../target-system.js';
import type { Requester } from './requester.js';

/** What target systems take of a site, and their number. */
export const quotaNames = ['targetSystems', 'cpus', 'memoryMiB', 'diskMiB'] as const;
export type QuotaName = (typeof quotaNames)[number];
export type Amounts = Readonly<Record<QuotaName, number>>;
export const nothing: Amounts = { targetSystems: 0, cpus: 0, memoryMiB: 0, diskMiB: 0 };

const most = z.int().min(0).optional();
/** What is left out has no limit. */
const Allowed = z.strictObject({ targetSystems: most, cpus: most, memoryMiB: most, diskMiB: most });
export type Allowed = z.output<typeof Allowed>;

/** The most that the target systems of each have together. */
export const QuotaConfig = z.strictObject({
  site: Allowed.prefault({}),
  /** Each user, unless he is named below; each member for itself. */
  user: Allowed.prefault({}),
  /** By distinguished name. */
  users: z
    .record(z.string(), Allowed)
    .default({})
    .transform((users, context) => {
      const byKey = new Map<string, Allowed>();
      for (const [dn, allowed] of Object.entries(users))
        try {
          byKey.set(dnKey(dn), allowed);
        } catch (error) {
          context.addIssue(`${dn}: ${errorText(error)}`);
        }
      return byKey;
    }),
  vos: z.record(z.string().min(1), Allowed).default({}),
  groups: z.record(z.string().min(1), Allowed).default({}),
});
export type QuotaConfig = z.output<typeof QuotaConfig>;

/** Whose target systems are counted together. */
export type QuotaScope = {
  readonly kind: 'user' | 'vo' | 'group' | 'site';
  /** Of the site: empty. */
  readonly name: string;
};
export type Quota = { readonly scope: QuotaScope; readonly allowed: Allowed };

/** On whose quota a target system counts, beside its owner's and the site's. */
export type CountsFor = { readonly vo?: string; readonly group?: string };

/** The virtual organisation that was chosen, else the first of those that have a quota, else the first. */
export function countsFor({ vos }: QuotaConfig, requester: Requester): CountsFor {
  const vo = requester.vos.find((name) => Object.hasOwn(vos, name)) ?? requester.vos[0];
  return {
    ...(vo !== undefined && { vo }),
    ...(requester.group !== undefined && { group: requester.group }),
  };
}

/** The quotas that a target system counts on; the smallest circle first. */
export function quotasOf(
  { site, user, users, vos, groups }: QuotaConfig,
  ownerDn: string,
  { vo, group }: CountsFor,
): Quota[] {
  const own = { ...user, ...users.get(dnKey(ownerDn)) };
  const quotas: Quota[] = [{ scope: { kind: 'user', name: ownerDn }, allowed: own }];
  const ofVo = vo !== undefined && Object.hasOwn(vos, vo) ? vos[vo] : undefined;
  if (vo !== undefined && ofVo) quotas.push({ scope: { kind: 'vo', name: vo }, allowed: ofVo });
  const ofGroup = group !== undefined && Object.hasOwn(groups, group) ? groups[group] : undefined;
  if (group !== undefined && ofGroup)
    quotas.push({ scope: { kind: 'group', name: group }, allowed: ofGroup });
  quotas.push({ scope: { kind: 'site', name: '' }, allowed: site });
  return quotas.filter(({ allowed }) => quotaNames.some((name) => allowed[name] !== undefined));
}

/**
 * What a target system takes, from its request until nothing of it is left: its snapshots and volumes as disk, and
 * while it is parked, or after it has ended with its host, neither cores nor memory.
 */
export function amountsOf(
  system: Pick<TargetSystem, 'parameters'> &
    Partial<Pick<TargetSystem, 'state' | 'snapshots' | 'volumes' | 'lostWithHost'>>,
): Amounts {
  const { cpus, memoryMiB, memoryMaxMiB = memoryMiB, diskMiB = 0 } = system.parameters;
  const own = system.lostWithHost === 'files' ? 0 : diskMiB;
  const disk = own + snapshotsMiB(system) + ownVolumesMiB(system);
  return system.state === 'SUSPENDED' || system.lostWithHost
    ? { targetSystems: 1, cpus: 0, memoryMiB: 0, diskMiB: disk }
    : { targetSystems: 1, cpus, memoryMiB: memoryMaxMiB, diskMiB: disk };
}

export function sameAmounts(a: Amounts, b: Amounts): boolean {
  return quotaNames.every((name) => a[name] === b[name]);
}

/** @throws `QUOTA_EXCEEDED` naming what is exceeded, with the figures */
export function checkQuota({ scope, allowed }: Quota, used: Amounts, asked: Amounts): void {
  const exceeded = quotaNames.flatMap((name) => {
    const limit = allowed[name];
    if (limit === undefined || used[name] + asked[name] <= limit) return [];
    return [`${name}: ${used[name]} used, ${asked[name]} asked for, ${limit} allowed`];
  });
  if (exceeded.length === 0) return;
  const text = `the quota of ${scopeText(scope)} is not enough: ${exceeded.join('; ')}`;
  throw new GridError('QUOTA_EXCEEDED', text, { scope, used, asked, allowed });
}

export function addAmounts(a: Amounts, b: Amounts): Amounts {
  return {
    targetSystems: a.targetSystems + b.targetSystems,
    cpus: a.cpus + b.cpus,
    memoryMiB: a.memoryMiB + b.memoryMiB,
    diskMiB: a.diskMiB + b.diskMiB,
  };
}

function scopeText({ kind, name }: QuotaScope): string {
  switch (kind) {
    case 'user':
      return `the user ${name}`;
    case 'vo':
      return `the virtual organisation ${name}`;
    case 'group':
      return `the group ${name}`;
    case 'site':
      return 'this site';
  }
}
