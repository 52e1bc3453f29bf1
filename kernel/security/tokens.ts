import { createPublicKey, type KeyObject, type X509Certificate } from 'node:crypto';
import { decodeJwt, jwtVerify, SignJWT, type JWTPayload } from 'jose';
import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';
import { accountPattern } from './account.js';
import { dnKey, formatDn, normalizeDn, subjectDn } from './dn.js';
import type { Identity } from './identity.js';
import { parsePreferences } from './preferences.js';

export class TokenError extends GridError<'UNAUTHENTICATED' | 'FORBIDDEN' | 'BAD_REQUEST'> {}

/** Clocks of servers may differ by so much. */
const clockSkewSeconds = 60;
const longestName = 1_024;

const curves: Readonly<Record<string, string>> = {
  prime256v1: 'ES256',
  secp384r1: 'ES384',
  secp521r1: 'ES512',
};

/**
 * The one algorithm that goes with a key (unicore-rest 2.4): a token never chooses.
 * @throws TypeError for keys that sign no tokens
 */
export function algorithmOf(key: KeyObject): string {
  if (key.type === 'secret') return 'HS256';
  const { asymmetricKeyType, asymmetricKeyDetails } = key;
  if (asymmetricKeyType === 'rsa') return 'RS256';
  if (asymmetricKeyType === 'ed25519') return 'EdDSA';
  const curve = curves[asymmetricKeyDetails?.namedCurve ?? ''];
  if (asymmetricKeyType === 'ec' && curve !== undefined) return curve;
  throw new TypeError(`no tokens are signed with ${asymmetricKeyType ?? 'symmetric'} keys`);
}

/** What tokens may say of it. Ed25519 has a second name (RFC 9864), which newer clients use. */
const namesOf = (algorithm: string): string[] =>
  algorithm === 'EdDSA' ? [algorithm, 'Ed25519'] : [algorithm];

export type NewToken = {
  /** DN of the user. */
  readonly subject: string;
  readonly lifetimeSeconds: number;
  readonly renewable?: boolean | undefined;
  /** For this server only. */
  readonly limited?: boolean | undefined;
  /** DN of the one server that it is for, where that is another one. */
  readonly audience?: string | undefined;
  readonly login?: string | undefined;
  /** As in `X-UNICORE-User-Preferences`. */
  readonly preferences?: string | undefined;
};

export type TokenIssuer = (token: NewToken) => Promise<string>;

/** Issues trust delegation tokens in the server's name (unicore-rest 2.4, 2.9). */
export function createTokenIssuer(key: KeyObject, serverDn: string, clock: Clock): TokenIssuer {
  const alg = algorithmOf(createPublicKey(key));
  return ({ subject, lifetimeSeconds, renewable, limited, audience, login, preferences }) => {
    const now = Math.floor(clock.now() / 1_000);
    const claims: JWTPayload = {
      etd: 'true',
      ...(renewable && { renewable: 'true' }),
      ...(login !== undefined && { uid: login }),
      ...(preferences !== undefined && { preferences }),
      ...(audience !== undefined ? { aud: audience } : limited && { aud: serverDn }),
    };
    return new SignJWT(claims)
      .setProtectedHeader({ alg, typ: 'JWT' })
      .setSubject(subject)
      .setIssuer(serverDn)
      .setIssuedAt(now)
      .setExpirationTime(now + lifetimeSeconds)
      .sign(key);
  };
}

/** What a token says before anybody has looked at its signature; `undefined`: it is no JWT. */
export function peekToken(token: string): JWTPayload | undefined {
  try {
    return decodeJwt(token);
  } catch {
    return undefined;
  }
}

/** Whether this is somebody's word for somebody else, rather than a user's own token. */
export function isDelegation({ etd, sub, iss }: JWTPayload): boolean {
  return etd === 'true' && sub !== undefined && iss !== undefined;
}

export type VerifierOptions = {
  /** Servers whose word for a user counts, ourselves included. */
  readonly issuers: readonly X509Certificate[];
  /** Servers that share a secret with us instead. */
  readonly secrets?: readonly { readonly issuerDn: string; readonly key: KeyObject }[];
  /** Keys of servers that are not among those above, by `dnKey` of their names. */
  readonly learned?: LearnedKeys | undefined;
  readonly serverDn?: string;
  readonly clock: Clock;
};

/** Whose word counts may change while the service runs. */
export type LearnedKeys = (issuer: string) => readonly KeyObject[];

/**
 * Verifies delegation tokens.
 * @throws {@link TokenError} `UNAUTHENTICATED`: signed by nobody we trust, expired, for another server
 */
export function createDelegationVerifier(options: VerifierOptions) {
  const { issuers, secrets = [], learned = () => [], serverDn, clock } = options;
  const keys = new Map<string, KeyObject[]>();
  for (const { issuerDn, key } of secrets) keys.set(dnKey(issuerDn), [key]);
  for (const certificate of issuers) {
    const name = dnKey(formatDn(subjectDn(certificate)));
    keys.set(name, [...(keys.get(name) ?? []), certificate.publicKey]);
  }
  return async (token: string, claimed: JWTPayload): Promise<Identity> => {
    const issuer = claimed.iss ?? '';
    const own = serverDn === undefined ? undefined : dnKey(serverDn);
    const name = keyOf(issuer);
    // what is configured is not added to, and nobody but we speaks in our name
    const trusted = keys.get(name) ?? (name === '' || name === own ? [] : learned(name));
    const payload = await verifyByAny(token, trusted, clock);
    if (payload.aud !== undefined && ![payload.aud].flat().some((name) => keyOf(name) === own))
      throw refused('it is for another server');
    const ours = name === own;
    const { sub, uid, preferences, renewable } = payload;
    return {
      dn: subjectOf(sub),
      method: 'ETD',
      untilMs: Number(payload.exp) * 1_000,
      renewable: renewable === 'true',
      ...(typeof preferences === 'string' && { preferences: parsePreferences(preferences) }),
      // another server knows nothing of our accounts
      ...(ours && isAccount(uid) && { claims: { role: 'user', login: uid } }),
    };
  };
}

/** @throws {@link TokenError} `UNAUTHENTICATED`: it speaks for nobody that can be named */
function subjectOf(sub: unknown): string {
  try {
    if (typeof sub === 'string' && sub.length <= longestName) return normalizeDn(sub);
  } catch {
    // no name
  }
  throw refused('its subject is no distinguished name');
}

function isAccount(uid: unknown): uid is string {
  return typeof uid === 'string' && accountPattern.test(uid);
}

/** Verifies a token with each key. @throws {@link TokenError} `UNAUTHENTICATED` if none fits */
export async function verifyByAny(
  token: string,
  keys: readonly KeyObject[],
  clock: Clock,
): Promise<JWTPayload> {
  let reason = 'signed by nobody we trust';
  for (const key of keys)
    try {
      const { payload } = await jwtVerify(token, key, {
        algorithms: namesOf(algorithmOf(key)),
        requiredClaims: ['exp', 'sub', 'iss'],
        clockTolerance: clockSkewSeconds,
        currentDate: new Date(clock.now()),
      });
      return payload;
    } catch (error) {
      reason = errorText(error);
    }
  throw refused(reason);
}

/** Names in tokens may be anything; what is no DN equals none. */
function keyOf(name: string): string {
  try {
    return dnKey(name);
  } catch {
    return '';
  }
}

function refused(reason: string): TokenError {
  return new TokenError('UNAUTHENTICATED', `token refused: ${reason}`);
}
