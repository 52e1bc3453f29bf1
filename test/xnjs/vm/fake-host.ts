import { GridError } from '#kernel/errors.js';
import type { Hypervisor, OwnDomain } from '#xnjs/vm/hypervisor.js';

export const away = () => new GridError('HYPERVISOR_UNAVAILABLE', 'no libvirt here');
/** What it says of itself. */
export const equal = 'libvirt 9 on an equal processor';

/** A fake of a libvirt: which domains there are, and what is done to them. */
export function aHost(isUp: boolean) {
  const host = { isUp, domains: [] as OwnDomain[], removed: [] as string[] };
  const answer = <T>(value: () => T): Promise<T> =>
    host.isUp ? Promise.resolve(value()) : Promise.reject(away());
  const hypervisor = {
    available: () => (host.isUp ? ['qemu'] : []),
    onDomain: () => () => undefined,
    onAvailable: () => () => undefined,
    list: () => answer(() => host.domains),
    look: () => answer(() => []),
    find: (_: string, id: string) => answer(() => host.domains.find((each) => each.id === id)),
    remove: (_: string, id: string) =>
      answer(() => {
        host.removed.push(id);
        host.domains = host.domains.filter((each) => each.id !== id);
      }),
    removeOlder: () => answer(() => undefined),
    end: () => answer(() => undefined),
    startFromMemory: (_: string, id: string) =>
      answer(() => void host.domains.push({ id, state: 'paused', reason: '' })),
    resume: () => answer(() => undefined),
    describe: () => answer(() => equal),
    usage: () => answer(() => []),
  } as unknown as Hypervisor; // the calls that are made are above
  return Object.assign(host, { hypervisor });
}
