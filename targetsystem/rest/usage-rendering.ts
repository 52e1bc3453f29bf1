import { formatDate } from '#kernel/clock.js';
import type { Usage, UsageOfOwner } from '#xnjs/index.js';
import type { Account, Rendered, Usage as UsageAnswer } from './answers.js';

const seconds = (ms: number): number => Math.round(ms / 100) / 10;

/** What a target system has used so far, in the units that users think in. */
export function renderUsage(usage: Usage): Rendered<typeof UsageAnswer> {
  const { total, memoryPeakMiB, givenMiB, startedMs, measuredMs, endedMs } = usage;
  const { cpuMs, ...bytes } = total;
  return {
    cpuSeconds: seconds(cpuMs),
    wallClockSeconds: seconds((endedMs ?? measuredMs) - startedMs),
    memoryPeakMiB,
    ...(endedMs === undefined && givenMiB !== undefined && { memoryMiB: givenMiB }),
    ...bytes,
    measured: formatDate(measuredMs),
  };
}

/** A line of the site's accounts. */
export function renderAccount(usage: Usage): Rendered<typeof Account> {
  const { id, ownerDn, imageName, startedMs, endedMs } = usage;
  return {
    ...{ targetSystem: id, owner: ownerDn, image: imageName },
    started: formatDate(startedMs),
    ...(endedMs !== undefined && { ended: formatDate(endedMs) }),
    ...renderUsage(usage),
  };
}

/** All that a user's target systems have used, as far back as the accounts go. */
export function renderSums({ cpuMs, wallMs, ...bytes }: UsageOfOwner): object {
  const times = { cpuSeconds: seconds(cpuMs), wallClockSeconds: seconds(wallMs) };
  return { ...times, ...bytes, ownerDn: undefined };
}
