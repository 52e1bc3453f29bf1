import { createHash } from 'node:crypto';
import type { JWTPayload } from 'jose';
import type { Configuration } from 'openid-client';
import { z } from 'zod';
import type { Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { accountPattern } from './account.js';
import { BoundedMap } from './bounded-map.js';
import { normalizeDn } from './dn.js';
import type { Identity } from './identity.js';
import { createOidcDiscovery, providerUnavailable } from './oidc-discovery.js';

/** An OpenID Connect provider whose bearer tokens are accepted (unicore-rest 2.3). */
export const OidcProvider = z.strictObject({
  /** Its issuer identifier; the rest is found by discovery. */
  issuer: z.url({ protocol: /^https$/, error: 'must be an https URL' }),
  clientId: z.string().min(1),
  /** With a secret, tokens are looked up by introspection, else by what userinfo says. */
  clientSecretFile: z.string().min(1).optional(),
  /** Authority of its certificate; absent: the system's. */
  caFile: z.string().min(1).optional(),
  /** `${claim}` stands for a claim of the user. */
  dnTemplate: z.string().default('CN=${sub},O=OIDC'),
  loginClaim: z.string().optional(),
  /** A list of groups, which `vos` files may know as virtual organisations. */
  groupsClaim: z.string().optional(),
  /** What users are who are in no users file. */
  role: z.enum(['user', 'anonymous']).default('user'),
  cacheSeconds: z.number().positive().max(3_600).default(60),
});
export type OidcProvider = z.output<typeof OidcProvider>;

export type OidcOptions = OidcProvider & {
  readonly clientSecret?: string | undefined;
  readonly ca?: string | undefined;
  readonly clock: Clock;
};

type Claims = Readonly<Record<string, unknown>>;
type Known = { readonly identity: Identity; readonly untilMs: number };

const cachedTokens = 1_000;
const mostGroups = 500;
const groupName = /^[\w\p{L}./@=+#& -]{1,256}$/u;

/**
 * Asks a provider about tokens; what it says is believed for a while. A token that names its issuer is shown to nobody
 * else, who could use it.
 * @returns `undefined`: it does not know the token
 * @throws `SITE_UNAVAILABLE` the provider does not answer
 */
export function createOidcVerifier(options: OidcOptions) {
  const { clock, cacheSeconds } = options;
  const known = new BoundedMap<string, Known>(cachedTokens);
  const discover = createOidcDiscovery(options, clock);
  const issuer = withoutSlash(options.issuer);
  return async (token: string, claimed?: JWTPayload): Promise<Identity | undefined> => {
    if (claimed?.iss !== undefined && withoutSlash(claimed.iss) !== issuer) return undefined;
    const key = createHash('sha256').update(token).digest('base64');
    const cached = known.get(key);
    if (cached && cached.untilMs > clock.now()) return cached.identity;
    const claims = await askAbout(token, await discover(), options);
    if (!claims) return undefined;
    const exp = typeof claims['exp'] === 'number' ? claims['exp'] * 1_000 : Infinity;
    const identity = toIdentity(claims, options, exp);
    known.set(key, { identity, untilMs: Math.min(exp, clock.now() + cacheSeconds * 1_000) });
    return identity;
  };
}

/** Configurations and providers differ in that alone. */
function withoutSlash(issuer: string): string {
  return issuer.replace(/\/$/, '');
}

async function askAbout(
  token: string,
  configuration: Configuration,
  { issuer, clientSecret }: OidcOptions,
): Promise<Claims | undefined> {
  const oidc = await import('openid-client');
  try {
    if (clientSecret === undefined)
      // eslint-disable-next-line @typescript-eslint/no-deprecated -- whose token it is, is what we ask
      return await oidc.fetchUserInfo(configuration, token, oidc.skipSubjectCheck);
    const { active, ...claims } = await oidc.tokenIntrospection(configuration, token);
    return active ? claims : undefined;
  } catch (cause) {
    // it says that the token is no good
    if (cause instanceof oidc.WWWAuthenticateChallengeError) return undefined;
    throw providerUnavailable(issuer, cause);
  }
}

function toIdentity(
  claims: Claims,
  { dnTemplate, loginClaim, groupsClaim, role, issuer }: OidcOptions,
  untilMs: number,
): Identity {
  const text = dnTemplate.replace(/\$\{([^}]*)\}/g, (_, name: string) => {
    const value = claims[name];
    if (typeof value === 'string' && value !== '') return escaped(value);
    throw new GridError('UNAUTHENTICATED', `${issuer} says nothing of ${name}`, { issuer });
  });
  const login = loginClaim === undefined ? undefined : claims[loginClaim];
  const valid = typeof login === 'string' && accountPattern.test(login);
  return {
    dn: normalizeDn(text),
    method: 'OAUTH',
    ...(Number.isFinite(untilMs) && { untilMs }),
    claims: {
      ...(role === 'user' && { role, ...(valid && { login }) }),
      ...(groupsClaim !== undefined && { vos: groupsIn(claims[groupsClaim]) }),
    },
  };
}

/** Odd values are none; a token may say a lot. */
function groupsIn(claim: unknown): string[] {
  const values: unknown[] = Array.isArray(claim) ? claim : [claim];
  return values
    .slice(0, mostGroups)
    .filter((value): value is string => typeof value === 'string' && groupName.test(value));
}

/** A claim is a value in a DN, whatever is in it (RFC 4514, 2.4). */
function escaped(value: string): string {
  return value.replace(/[,+"\\<>;=#]/g, '\\$&').replace(/^ | $/g, '\\ ');
}
