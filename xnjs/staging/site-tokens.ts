import type { StagingConfig } from './config.js';
import type { OnBehalfOf } from './transfer.js';
import type { TrustedSites } from './trusted-sites.js';

/** As long as tokens of UNICORE servers to each other are good (unicore-rest 2.10). */
export const tokenLifetimeSeconds = 300;

/** Signs a token in the server's name. */
export type IssueToken = (token: {
  readonly subject: string;
  readonly audience: string;
  readonly lifetimeSeconds: number;
}) => Promise<string>;

/**
 * Our word for users, for the sites that the configuration lists and for nobody else: users name the hosts, and
 * a token speaks for its user wherever it comes to.
 */
export function createSiteTokens(
  { trustedSites }: Pick<StagingConfig, 'trustedSites'>,
  issue: IssueToken,
): OnBehalfOf {
  const audiences = new Map(trustedSites.map(({ url, dn }) => [exactly(new URL(url)), dn]));
  return async (subject, site) => {
    const audience = audiences.get(exactly(site));
    if (audience === undefined) return undefined;
    return await issue({ subject, audience, lifetimeSeconds: tokenLifetimeSeconds });
  };
}

/**
 * The same for receivers of notifications: an address below that of a listed one is its, too, since each user's
 * or workflow's receiver has a path of its own there.
 */
export function createReceiverTokens(receivers: TrustedSites, issue: IssueToken): OnBehalfOf {
  const known = receivers
    .map(({ url, dn }) => ({ url: exactly(new URL(url)), dn }))
    .sort((one, other) => other.url.length - one.url.length); // the nearest decides
  return async (subject, address) => {
    // a path that hides a separator may mean another one to the server; one with parameters (`..;`) to those in Java
    if (/%2f|%5c|;/i.test(address.pathname)) return undefined;
    const at = exactly(address);
    const receiver = known.find(({ url }) => at === url || at.startsWith(`${url}/`));
    if (!receiver) return undefined;
    return await issue({ subject, audience: receiver.dn, lifetimeSeconds: tokenLifetimeSeconds });
  };
}

/** The whole address, as URLs are written: another path at the same host is another site. */
function exactly({ origin, pathname }: URL): string {
  return `${origin}${pathname.replace(/\/+$/, '')}`;
}
