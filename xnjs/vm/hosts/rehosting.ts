import { errorText, GridError } from '#kernel/errors.js';
import { fingerprint } from '../parking.js';
import type { Snapshot } from '../snapshots/snapshot.js';
import type { TargetSystem } from '../target-system.js';
import { seatOf } from './host.js';
import type { Held, HostPlacement } from './host-placement.js';
import { lossText, type Hosts } from './hosts.js';

export type RehostingOptions = {
  readonly hosts: Hosts;
  readonly places: HostPlacement;
  readonly save: (record: TargetSystem) => Promise<void>;
};

/**
 * A parked machine, of which no host has a domain, goes on where it was; on another host of the same kind if its
 * own does not answer, or is drained. Stored before anything is started.
 * @throws `HYPERVISOR_UNAVAILABLE` none can take it
 */
export async function rehost(record: TargetSystem, options: RehostingOptions): Promise<void> {
  const { hosts, places, save } = options;
  const own = hosts.all.find(({ name }) => name === record.host);
  const isUp = hosts.isUp(seatOf(record)) && !places.isSilent(seatOf(record));
  if (isUp && own && !hosts.isDrained(own)) return;
  const field = 'hostLabels';
  const labels = record.hostLabels && { labels: record.hostLabels, field };
  try {
    if (record.cores) throw new Error('it has cores of its own there');
    const among = await equalHosts(record, record.parkedOn, hosts);
    if (among.length === 0) throw new Error('no other host that answers is of its kind');
    const { host, placement, release } = places.hold(record.id, record, labels, among);
    try {
      await save({ ...record, host, placement });
    } finally {
      release();
    }
  } catch (error) {
    if (isUp) return; // drained, but nothing is better
    const text = `host ${record.host} does not answer, and no other can take it: ${errorText(error)}`;
    throw new GridError('HYPERVISOR_UNAVAILABLE', text, { vmId: record.id }, { cause: error });
  }
}

/**
 * Where one can be put back that is off, if its own host was declared lost: an equal one, where the snapshot has memory,
 * that gets at its files. It is held there until that is stored.
 * @throws `CONFLICT` there is none
 */
export async function refugeFrom(
  record: TargetSystem,
  { host: savedOn, isDiskOnly }: Pick<Snapshot, 'host' | 'isDiskOnly'>,
  { hosts, places }: Omit<RehostingOptions, 'save'>,
): Promise<Held> {
  const labels = record.hostLabels && { labels: record.hostLabels, field: 'hostLabels' };
  try {
    if (record.cores) throw new Error('it had cores of its own there');
    const sharing = hosts.seats().filter((seat) => hosts.parksInFiles(seat));
    const among = isDiskOnly
      ? sharing.map(({ host }) => host)
      : await equalHosts(record, savedOn, hosts);
    if (among.length === 0) throw new Error('no other host that answers is of its kind');
    return places.hold(record.id, record, labels, among);
  } catch (error) {
    const loss = hosts.lossOf(record);
    const text = `its host ${record.host} was ${loss ? lossText(loss) : 'lost'}, and no other can take it: ${errorText(error)}`;
    throw new GridError('CONFLICT', text, { vmId: record.id }, { cause: error });
  }
}

/** Hosts that can restore what its own has saved: equal ones that get at its files. */
export async function equalHosts(
  record: Pick<TargetSystem, 'host' | 'driver'>,
  savedOn: string | undefined,
  hosts: Hosts,
): Promise<string[]> {
  const names = hosts
    .seats()
    .filter(({ host, driver }) => host !== record.host && driver === record.driver)
    .filter((seat) => hosts.parksInFiles(seat))
    .map(({ host }) => host);
  const found = await Promise.all(
    names.map(async (host) => {
      const description = await hosts
        .of({ host })
        .describe(record.driver)
        .catch(() => undefined);
      const isEqual = description !== undefined && fingerprint(description) === savedOn;
      return isEqual ? [host] : [];
    }),
  );
  return found.flat();
}
