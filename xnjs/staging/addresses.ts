import { lookup } from 'node:dns';
import { isIP, type LookupFunction } from 'node:net';
import ipaddr from 'ipaddr.js';
import { StagingError } from './errors.js';

/** Decides whom the server talks to on behalf of users. */
export type AddressGuard = {
  /** @throws {@link StagingError} `FORBIDDEN` the host is a literal address that is not allowed */
  checkHost(host: string): void;
  /** For `net.connect`: gives only allowed addresses, so that a name cannot change its meaning later. */
  readonly lookup: LookupFunction;
};

/**
 * Refuses loopback, private, link-local, multicast and all other special addresses, in any notation and
 * behind any name, except those in `allowed` (addresses or CIDR ranges).
 */
export function createAddressGuard(allowed: readonly string[]): AddressGuard {
  const ranges = allowed.map((text) =>
    ipaddr.isValidCIDR(text) ? ipaddr.parseCIDR(text) : single(text),
  );
  const permits = (text: string): boolean => {
    if (!ipaddr.isValid(text)) return false;
    const address = ipaddr.process(text);
    return (
      address.range() === 'unicast' ||
      ranges.some((range) => range[0].kind() === address.kind() && address.match(range))
    );
  };
  return {
    checkHost(host) {
      const literal = host.replace(/^\[|\]$/g, '');
      if (isIP(literal) !== 0 && !permits(literal)) throw refused(literal);
    },
    lookup(hostname, options, callback) {
      lookup(hostname, { ...options, all: true }, (error, found) => {
        if (error) {
          callback(error, '');
          return;
        }
        const fine = found.filter(({ address }) => permits(address));
        const [first] = fine;
        if (!first) {
          callback(refused(hostname), '');
          return;
        }
        if (options.all === true) callback(null, fine);
        else callback(null, first.address, first.family);
      });
    },
  };
}

function single(text: string): [ipaddr.IPv4 | ipaddr.IPv6, number] {
  const address = ipaddr.process(text);
  return [address, address.kind() === 'ipv4' ? 32 : 128];
}

function refused(host: string): StagingError {
  return new StagingError(
    'FORBIDDEN',
    `${host} is an address inside this site, which transfers may not use`,
  );
}
