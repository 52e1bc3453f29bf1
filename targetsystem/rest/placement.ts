import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import type { Caller } from '#kernel/http/caller.js';
import { attributesOf, chosenVo } from '#kernel/security/caller.js';
import {
  driverAbilities,
  type Estimate,
  type HostStatus,
  type OfferedFlavour,
  type QuotaUse,
  type Requester,
} from '#xnjs/index.js';
import { renderAbilities } from './admin-hosts.js';
import type { Rendered } from './answers.js';
import type { DriverOffer, Flavour, HostOffer, Plan, Prices, Quota } from './answers-placement.js';
import type { RestDeps } from './deps.js';
import { renderVolumes } from './sites-rendering.js';

/** `?dryRun=true`: all is checked and nothing made. Clients that put everything into the body may do so. */
export const dryRun = z
  .union([z.boolean(), z.stringbool()], 'must be true or false')
  .default(false)
  .describe('true: tells what would be made, and makes nothing');

/** Whose limits and quotas hold for what the caller has made. */
export function requesterOf(caller: Caller): Requester {
  const { vos, group } = attributesOf(caller);
  const vo = chosenVo(caller);
  return { role: caller.role, vos: vo === undefined ? vos : [vo], group };
}

/** What the factory shows of what the caller may have. */
export async function renderPlacement(
  { systems: { planner, places } }: RestDeps,
  caller: Caller,
): Promise<{
  flavours: Rendered<typeof Flavour>[];
  networks: readonly string[];
  drivers: Rendered<typeof DriverOffer>[];
  hostLabels: string[];
  hosts: Rendered<typeof HostOffer>[];
  quota?: Rendered<typeof Quota>[];
  prices?: Rendered<typeof Prices>;
}> {
  const requester = requesterOf(caller);
  const { prices } = planner;
  const hosts = places.list().filter(({ loss }) => !loss);
  return {
    flavours: planner.flavours.offered(requester).map(renderFlavour),
    networks: planner.offeredNetworks,
    drivers: renderDrivers(hosts),
    hostLabels: [...new Set(hosts.flatMap(({ labels }) => labels))].sort(),
    hosts: hosts.map(({ name, labels, abilities }) => ({
      name,
      abilities: renderAbilities(abilities),
      labels: [...labels],
    })),
    // strangers have none
    ...(caller.role !== 'anonymous' && {
      quota: (await planner.quotaOf(caller.dn, requester)).map(renderQuota),
    }),
    ...(prices && { prices }),
  };
}

/** What libvirt's drivers can do, those that are here first. */
function renderDrivers(hosts: readonly HostStatus[]): Rendered<typeof DriverOffer>[] {
  const here = hosts.flatMap(({ drivers }) => drivers);
  const offers = Object.entries(driverAbilities).map(([name, abilities]) => {
    const those = here.filter((each) => each.name === name);
    const isUp = those.some((each) => each.isUp);
    const state = isUp ? ('OK' as const) : those.length > 0 ? ('DOWN' as const) : ('NONE' as const);
    return { name, state, ...abilities };
  });
  return offers.toSorted((a, b) => Number(a.state === 'NONE') - Number(b.state === 'NONE'));
}

function renderFlavour({
  name,
  description,
  isDefault,
  bounds: { controls, networks, pinned, cpus, memoryMiB, diskMiB, lifetimeSeconds },
}: OfferedFlavour): Rendered<typeof Flavour> {
  return {
    ...{ name, description, default: isDefault },
    ...{ cpus, memoryMiB, diskMiB, lifetimeSeconds },
    ...(networks && { networks }),
    ...(pinned !== undefined && { pinned }),
    controls: Object.fromEntries(
      Object.entries(controls).flatMap(([control, most]) =>
        most === undefined ? [] : [[control, most]],
      ),
    ),
  };
}

function renderQuota({ scope: { kind, name }, used, allowed }: QuotaUse): Rendered<typeof Quota> {
  return { kind, ...(kind !== 'site' && { name }), used, allowed };
}

export function renderPlan(
  {
    image,
    why,
    driver,
    host,
    placement,
    tier,
    flavour,
    parameters,
    imageParameters,
    volumes,
    terminationMs,
    ...estimate
  }: Estimate,
  currency: string | undefined,
): Rendered<typeof Plan> {
  const { name, version } = image.metadata;
  return {
    image: { id: image.id, name, version, why },
    ...{ driver, host, placement, tier },
    ...(flavour !== undefined && { flavour }),
    parameters,
    ...(imageParameters && { imageParameters }),
    ...(volumes && { volumes: renderVolumes(volumes) }),
    ...(terminationMs !== undefined && { terminationTime: formatDate(terminationMs) }),
    quota: estimate.quotaAfter.map(renderQuota),
    cost: { ...(currency !== undefined && { currency }), ...estimate.cost },
    expectedWait: estimate.waits.map(({ tier, p50Ms, p90Ms, starts }) => ({
      ...{ tier, starts },
      p50Seconds: p50Ms / 1_000,
      p90Seconds: p90Ms / 1_000,
    })),
  };
}
