import assert from 'node:assert/strict';
import { createPrivateKey, generateKeyPairSync } from 'node:crypto';
import { before, describe, it } from 'node:test';
import { decodeJwt, decodeProtectedHeader, SignJWT } from 'jose';
import type { Clock } from '#kernel/clock.js';
import { createCa, issueCertificate, type Credential } from '#kernel/security/ca.js';
import {
  createConsignorTokenSigner,
  createConsignorTokenVerifier,
  type Consigned,
} from '#kernel/security/consignor-token.js';
import { parseDn } from '#kernel/security/dn.js';
import { createDelegationVerifier } from '#kernel/security/tokens.js';

const request: Consigned = {
  method: 'POST',
  target: '/rest/core/jobs?a=b',
  peer: '192.0.2.1',
  gateway: 'https://grid.example/VSITE',
};
const dn = parseDn('CN=Jörg User,O=VSite');
const refusal = { code: 'UNAUTHENTICATED' };

describe('consignor token', () => {
  let now = Date.parse('2026-11-25T12:00:00Z');
  const clock = { now: () => now, sleep: () => Promise.resolve() } satisfies Clock;
  let signer: Credential;
  let stranger: Credential;
  let elliptic: Credential;
  before(async () => {
    const ca = await createCa('CN=CA');
    [signer, stranger, elliptic] = await Promise.all([
      issueCertificate(ca, { subject: 'CN=Gateway', usage: 'client' }),
      issueCertificate(ca, { subject: 'CN=Gateway', usage: 'client', keyType: 'ec' }),
      issueCertificate(ca, { subject: 'CN=Gateway', usage: 'client', keyType: 'ec' }),
    ]);
    now = Date.now();
  });

  const make = ({ key }: Credential, asked = request): [token: string, statement: string] => {
    const [, token = '', , statement = ''] = createConsignorTokenSigner(key, clock)(dn, asked);
    return [token, statement];
  };
  const verifier = (...trusted: Credential[]) =>
    createConsignorTokenVerifier(
      trusted.map(({ certificate }) => certificate),
      clock,
    );

  it('tells the name, whichever kind of key vouches', async () => {
    for (const credential of [signer, elliptic]) {
      const verify = verifier(stranger, signer, elliptic);
      assert.equal(await verify(...make(credential), request), 'CN=Jörg User,O=VSite');
    }
  });
  it('counts once', async () => {
    const verify = verifier(signer);
    const made = make(signer);
    await verify(...made, request);
    await assert.rejects(verify(...made, request), refusal);
  });
  const others = [
    ['method', { method: 'DELETE' }],
    ['target', { target: '/rest/core/jobs?a=c' }],
    ['client address', { peer: '192.0.2.2' }],
    ['site', { gateway: 'https://grid.example/OTHER' }],
  ] as const;
  for (const [what, change] of others)
    it(`is good for no other ${what}`, async () => {
      const verify = verifier(signer);
      await assert.rejects(verify(...make(signer), { ...request, ...change }), refusal);
    });
  it('ends soon, and so does the key', async () => {
    const verify = verifier(signer);
    const sign = createConsignorTokenSigner(signer.key, clock);
    const tokenAt = () => {
      const [, token = '', , statement = ''] = sign(dn, request);
      return [token, statement] as const;
    };
    const [token, statement] = tokenAt();
    now += 61_000;
    await assert.rejects(verify(token, statement, request), refusal);
    now += 1_800_000;
    const [next, renewed] = tokenAt();
    assert.notEqual(renewed, statement);
    await verify(next, renewed, request);
    now += 1_900_000;
    // A key of an hour ago vouches for nothing, not even if it was known
    await assert.rejects(verify(tokenAt()[0], statement, request), refusal);
  });
  it('is refused when forged', async () => {
    const [token, statement] = make(signer);
    const [strangers, strangersKey] = make(stranger);
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const claims = decodeJwt(token);
    const again = (alg: string, key: Parameters<SignJWT['sign']>[0], typ = 'consignor+jwt') =>
      new SignJWT({ ...claims, jti: 'another' }).setProtectedHeader({ alg, typ }).sign(key);
    const none = [{ alg: 'none', typ: 'consignor+jwt' }, claims]
      .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
      .join('.');
    const ownStatement = await new SignJWT({ cnf: { jwk: publicKey.export({ format: 'jwk' }) } })
      .setProtectedHeader({ alg: 'ES256', typ: 'consignor-key+jwt' })
      .setIssuedAt(Math.floor(now / 1000))
      .setExpirationTime(Math.floor(now / 1000) + 60)
      .sign(privateKey);
    const jwk = Buffer.from(JSON.stringify((decodeJwt(statement)['cnf'] as { jwk: object }).jwk));
    const forged = [
      [strangers, strangersKey],
      [strangers, statement],
      [token, strangersKey],
      [`${none}.`, statement],
      [await again('ES256', privateKey), statement],
      [await again('ES256', privateKey), ownStatement],
      [await again('HS256', jwk), statement],
      [statement, statement],
      [token.replace(/\.[^.]+\./, (claims) => claims.slice(0, -2) + 'x.'), statement],
      [token, 'undefined'],
      [`${token}, ${token}`, statement],
      ['', ''],
    ] as const;
    const verify = verifier(signer);
    for (const [first, second] of forged)
      await assert.rejects(verify(first, second, request), refusal);
    assert.equal(decodeProtectedHeader(token).alg, 'ES256');
  });
  it('is no token of any other kind, and none of them is one', async () => {
    const [token, statement] = make(signer);
    const issuers = [signer.certificate];
    const delegation = createDelegationVerifier({ issuers, clock });
    for (const text of [token, statement])
      await assert.rejects(delegation(text, { ...decodeJwt(text), iss: 'CN=Gateway' }), refusal);
    const { cnf } = decodeJwt(statement);
    const time = Math.floor(now / 1000);
    const etd = await new SignJWT({ cnf, etd: 'true' })
      .setProtectedHeader({ alg: 'RS256', typ: 'JWT' })
      .setSubject('CN=A')
      .setIssuer('CN=Gateway')
      .setIssuedAt(time)
      .setExpirationTime(time + 60)
      .sign(createPrivateKey(signer.key.export({ type: 'pkcs8', format: 'pem' })));
    await assert.rejects(verifier(signer)(token, etd, request), refusal);
  });
  it('is refused when nobody is trusted', async () => {
    await assert.rejects(verifier()(...make(signer), request), refusal);
  });
});
