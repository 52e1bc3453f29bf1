import {
  createHash,
  createPublicKey,
  generateKeyPairSync,
  randomUUID,
  sign,
  type JsonWebKey,
  type KeyObject,
  type X509Certificate,
} from 'node:crypto';
import { jwtVerify, type JWTPayload } from 'jose';
import { systemClock, type Clock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import { BoundedMap } from './bounded-map.js';
import { ConsignorError } from './consignor.js';
import { formatDn, normalizeDn, type Dn } from './dn.js';
import { algorithmOf } from './tokens.js';

/**
 * The gateway's word about its TLS client for one request: a JWT that binds the name to method, target,
 * client address, gateway address and time, and counts once. It is signed with a key of the
 * gateway's process, for which the gateway's signing key vouches in a JWT of its own (RFC 7800): RSA signatures are
 * too dear to make one per request.
 */
export const consignorTokenHeader = 'X-UNICORE-Consignor-Token';
export const consignorKeyHeader = 'X-UNICORE-Consignor-Key';

/** What a token is good for. */
export type Consigned = {
  readonly method: string;
  /** As in the request line that the site gets. */
  readonly target: string;
  readonly peer: string;
  /** `X-UNICORE-Gateway`, with the name of the site at its end. */
  readonly gateway: string;
};

const lifetimeSeconds = 30;
const keyLifetimeSeconds = 3_600;
/** Clocks of gateway and site may differ by so much. */
const clockSkewSeconds = 30;
const tokenType = 'consignor+jwt';
const keyType = 'consignor-key+jwt';
const hashes: Readonly<Record<string, string>> = {
  RS256: 'sha256',
  ES256: 'sha256',
  ES384: 'sha384',
  ES512: 'sha512',
};

/** @returns makes the two headers, names and values in turn */
export function createConsignorTokenSigner(
  key: KeyObject,
  clock: Clock = systemClock,
): (dn: Dn, request: Consigned) => string[] {
  let current: { key: KeyObject; statement: string; renewAt: number } | undefined;
  return (dn, request) => {
    const now = Math.floor(clock.now() / 1_000);
    if (!current || now >= current.renewAt) current = makeKey(key, now);
    const claims = {
      sub: formatDn(dn),
      req: requestDigest(request),
      jti: randomUUID(),
      iat: now,
      exp: now + lifetimeSeconds,
    };
    const token = writeJwt(tokenType, claims, current.key);
    return [consignorTokenHeader, token, consignorKeyHeader, current.statement];
  };
}

function makeKey(signingKey: KeyObject, now: number) {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const claims = {
    iat: now,
    exp: now + keyLifetimeSeconds,
    cnf: { jwk: publicKey.export({ format: 'jwk' }) },
  };
  const statement = writeJwt(keyType, claims, signingKey);
  return { key: privateKey, statement, renewAt: now + keyLifetimeSeconds / 2 };
}

/** By hand because it has to happen at once, in the middle of sending a request; jose only promises. */
function writeJwt(typ: string, claims: object, key: KeyObject): string {
  const alg = algorithmOf(key);
  const content = [{ alg, typ }, claims]
    .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
    .join('.');
  const signature = sign(hashes[alg], Buffer.from(content), { key, dsaEncoding: 'ieee-p1363' });
  return `${content}.${signature.toString('base64url')}`;
}

function requestDigest({ method, target, peer, gateway }: Consigned): string {
  const text = [method, target, peer, gateway].join('\n');
  return createHash('sha256').update(text).digest('base64url');
}

/**
 * Verifies tokens; each of `signers` may vouch for keys.
 * @returns the client's DN
 * @throws {@link ConsignorError} `UNAUTHENTICATED` for anything else, a token that was here before included
 */
export function createConsignorTokenVerifier(
  signers: readonly X509Certificate[],
  clock: Clock = systemClock,
): (token: string, statement: string, request: Consigned) => Promise<string> {
  const keys = new BoundedMap<string, { key: KeyObject; until: number }>(100);
  /** More than can come within the life of a token. */
  const used = new BoundedMap<string, true>(100_000);

  async function keyOf(statement: string): Promise<KeyObject> {
    const known = keys.get(statement);
    if (known && clock.now() < known.until) return known.key;
    const claims = await vouched(statement, signers, clock);
    const { jwk } = claims['cnf'] as { jwk: JsonWebKey }; // signed by a gateway, made above
    const key = createPublicKey({ key: jwk, format: 'jwk' });
    keys.set(statement, { key, until: Number(claims.exp) * 1_000 });
    return key;
  }

  return async (token, statement, request) => {
    try {
      const claims = await read(token, await keyOf(statement), 'ES256', tokenType, clock);
      const { jti, sub, req } = claims;
      if (req !== requestDigest(request)) throw new TypeError('made for another request');
      if (typeof jti !== 'string' || used.has(jti)) throw new TypeError('was here before');
      used.set(jti, true);
      return normalizeDn(String(sub));
    } catch (cause) {
      const reason = `consignor token refused: ${errorText(cause)}`;
      throw new ConsignorError('UNAUTHENTICATED', reason, {}, { cause });
    }
  };
}

async function vouched(
  statement: string,
  signers: readonly X509Certificate[],
  clock: Clock,
): Promise<JWTPayload> {
  const now = clock.now();
  const valid = signers.filter(
    ({ validFrom, validTo }) => Date.parse(validFrom) <= now && now <= Date.parse(validTo),
  );
  for (const { publicKey } of valid) {
    const claims = await read(statement, publicKey, algorithmOf(publicKey), keyType, clock).catch(
      () => undefined,
    );
    if (claims) return claims;
  }
  throw new TypeError('signed by nobody we trust, or expired');
}

async function read(
  text: string,
  key: KeyObject,
  algorithm: string,
  typ: string,
  clock: Clock,
): Promise<JWTPayload> {
  const { payload } = await jwtVerify(text, key, {
    algorithms: [algorithm],
    typ,
    requiredClaims: ['exp', 'iat'],
    maxTokenAge: typ === tokenType ? lifetimeSeconds : keyLifetimeSeconds,
    clockTolerance: clockSkewSeconds,
    currentDate: new Date(clock.now()),
  });
  return payload;
}
