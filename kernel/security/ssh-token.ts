import type { JWTPayload } from 'jose';
import type { Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import type { Identity } from './identity.js';
import { readSshKey } from './ssh-key.js';
import { verifyByAny } from './tokens.js';
import type { Users } from './users.js';

/** More of them would only be tried for whoever sends nonsense. */
const longestLifetimeMs = 86_400_000;

/**
 * Tokens that users sign themselves (unicore-rest 2.5): `sub` and `iss` are the user's name.
 * @returns `undefined`: it is not that kind of token
 */
export function createSshTokenVerifier(users: Users, clock: Clock) {
  return async (token: string, claimed: JWTPayload): Promise<Identity | undefined> => {
    if (claimed.sub === undefined || claimed.sub !== claimed.iss) return undefined;
    const user = await users.findByName(claimed.sub);
    if (!user || user.sshKeys.length === 0) return undefined;
    const { exp = 0 } = await verifyByAny(token, user.sshKeys.map(readSshKey), clock);
    if (exp * 1_000 - clock.now() > longestLifetimeMs)
      throw new GridError('UNAUTHENTICATED', 'token refused: it is valid for more than a day');
    return { dn: user.dn, method: 'SSHKEY', untilMs: exp * 1_000 };
  };
}
