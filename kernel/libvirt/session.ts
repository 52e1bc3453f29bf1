import { LibvirtError } from './errors.js';
import type { Connection } from './connection.js';
import { events, type EventName } from './events.js';
import type { CallOptions } from './calls.js';
import type { KeepAliveOptions } from './keep-alive.js';

const authTypes = { none: 0, polkit: 2 } as const;
/** "The daemon may ping us": it then drops a client that is silent for 30 s. */
const keepAliveFeature = 10;

/**
 * From a fresh connection to one that takes calls: authentication, then the driver.
 * @throws {@link LibvirtError} `HYPERVISOR_FAILED` if the daemon wants another authentication, or refuses
 */
export async function openSession(
  connection: Connection,
  driverUri: string,
  options: CallOptions,
): Promise<void> {
  const { types } = await connection.call('auth_list', {}, options);
  if (!types.includes(authTypes.none)) {
    if (!types.includes(authTypes.polkit))
      throw new LibvirtError(
        'HYPERVISOR_FAILED',
        'libvirt asks for an authentication that we do not speak',
        { types },
      );
    await connection.call('auth_polkit', {}, options);
  }
  await connection.call('connect_open', { name: driverUri, flags: 0 }, options);
}

/** Makes it the connection that is told of events and notices when the daemon hangs. */
export async function watch(
  connection: Connection,
  { keepAlive, events: names }: { keepAlive: KeepAliveOptions; events: readonly EventName[] },
  options: CallOptions,
): Promise<void> {
  connection.startKeepAlive(keepAlive);
  await connection.call('connect_supports_feature', { feature: keepAliveFeature }, options);
  for (const name of names) {
    const args = { eventID: events[name].id, dom: null }; // null: all domains
    await connection.call('connect_domain_event_callback_register_any', args, options);
  }
}
