import type { NetworkKind } from '#imagerepo/contract.js';
import { driverAbilities } from './driver-abilities.js';
import { isLocal, type Host } from './host.js';

/**
 * What machines of a host can do there, beside what its driver can: shown to operators, and asked before anything
 * is promised.
 */
export type HostAbilities = {
  /** Parked on disk it can be brought back: on any equal host, on its own only, or not at all. */
  readonly thaw: 'anywhere' | 'there' | 'none';
  readonly snapshots: boolean;
  readonly console: boolean;
  readonly screenPictures: boolean;
  /** VNC, as it moves: by sockets of this server's host. */
  readonly liveScreens: boolean;
  readonly containers: boolean;
  /** Kinds, beside none. */
  readonly networks: readonly NetworkKind[];
  readonly spares: boolean;
  readonly warmStarts: boolean;
};

export function abilitiesOf(
  { name, drivers, storage }: Host,
  networks: readonly NetworkKind[] = [],
): HostAbilities {
  const here = isLocal({ host: name });
  const can = (ability: 'freeze' | 'snapshots' | 'console' | 'screen' | 'warmStart'): boolean =>
    drivers.some((driver) => driverAbilities[driver][ability]);
  const thaw = storage ? 'there' : 'anywhere';
  return {
    thaw: can('freeze') ? thaw : 'none',
    snapshots: can('snapshots'),
    ...{ console: can('console'), screenPictures: can('screen') },
    ...{ liveScreens: here && can('screen'), containers: drivers.includes('lxc') },
    ...{ networks, spares: drivers.length > 0, warmStarts: can('warmStart') },
  };
}
