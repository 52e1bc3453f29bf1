import type { z } from 'zod';
import type { Factory, Plan } from '#targetsystem/rest/answers-placement.js';
import { printJson, printRows, tell, type Row } from './print.js';
import type { Session } from './profile.js';

const factoryId = 'default_target_system_factory';
const columns = ['cpus', 'memoryMiB', 'diskMiB'] as const;
type Flavour = z.output<typeof Factory>['flavours'][number];
type Quota = z.output<typeof Plan>['quota'][number];

/** What the user may have: sizes by name, and what is left of his quotas. */
export async function showOffer({ service }: Session, asJson: boolean): Promise<void> {
  const { body } = await service.call('GET', '/factories/:factoryId', { factoryId });
  const { flavours, networks, quota = [], prices } = body;
  if (asJson) {
    printJson({ flavours, networks, quota, prices });
    return;
  }
  if (flavours.length > 0)
    printRows(flavours.map(rowOfFlavour), ['flavour', ...columns, 'description'], false);
  if (quota.length > 0) printRows(quota.map(rowOfQuota), quotaColumns, false);
  if (networks.length > 1) tell(`networks: ${networks.join(', ')}`);
  if (prices)
    tell(
      `prices in ${prices.currency}: ${prices.coreHour} a core-hour, ` +
        `${prices.memoryGiBHour} a GiB-hour of memory, ${prices.diskGiBHour} of disk`,
    );
}

/** What would be made, for people: the most important first. */
export function printPlan(plan: z.output<typeof Plan>, asJson: boolean): void {
  if (asJson) {
    printJson(plan);
    return;
  }
  const { image, driver, placement, flavour, parameters, cost, expectedWait } = plan;
  const size = Object.entries(parameters).map(([name, value]) => `${name} ${value}`);
  const values = Object.entries(plan.imageParameters ?? {});
  const lines = [
    image.why,
    `host ${placement}`,
    `${driver}${flavour === undefined ? '' : `, flavour ${flavour}`}: ${size.join(', ')}`,
    ...(plan.volumes ?? []).map(({ name, sizeMiB, path }) => `${name} ${sizeMiB} MiB at ${path}`),
    ...(values.length > 0 ? [values.map((pair) => pair.join('=')).join(' ')] : []),
    plan.terminationTime === undefined ? 'until it is deleted' : `until ${plan.terminationTime}`,
    costText(cost),
    ...expectedWait.map(
      ({ tier, p50Seconds, p90Seconds, starts }) =>
        `${tier} starts took ${p50Seconds} s (half), ${p90Seconds} s (nine of ten); ${starts} are known`,
    ),
  ];
  for (const line of lines) process.stdout.write(`${line}\n`);
  if (plan.quota.length > 0) printRows(plan.quota.map(rowOfQuota), quotaColumns, false);
}

function costText({ total, perHour, currency = '' }: z.output<typeof Plan>['cost']): string {
  const sum = total ?? perHour;
  const span = total ? `${total.hours} h` : 'an hour';
  const price = sum.price === undefined ? '' : `, ${sum.price} ${currency}`;
  return `${span}: ${sum.coreHours} core-hours, ${sum.memoryGiBHours} GiB-hours of memory${price}`;
}

function rowOfFlavour(flavour: Flavour): Row {
  const text = ({ min, default: usual, max }: Flavour['cpus']): string | undefined =>
    min === undefined && usual === undefined && max === undefined
      ? undefined
      : `${usual ?? ''}${usual === undefined ? '' : ' '}(${min ?? 1}-${max ?? ''})`;
  return {
    flavour: flavour.default ? `${flavour.name}*` : flavour.name,
    ...Object.fromEntries(columns.map((name) => [name, text(flavour[name])])),
    description: flavour.description,
  };
}

const quotaColumns = ['quota', 'targetSystems', ...columns] as const;
/** `used/allowed`; `-`: no limit. */
function rowOfQuota({ kind, name, used, allowed }: Quota): Row {
  return {
    quota: name === undefined ? kind : `${kind} ${name}`,
    ...Object.fromEntries(
      (['targetSystems', ...columns] as const).map((each) => [
        each,
        `${used[each]}/${allowed[each] ?? '-'}`,
      ]),
    ),
  };
}
