import { createSecretKey, X509Certificate } from 'node:crypto';
import { z } from 'zod';
import type { JWTPayload } from 'jose';
import type { Clock } from '#kernel/clock.js';
import { ConfigError, dn, file } from '#kernel/config.js';
import type { Identity } from './identity.js';
import { createOidcVerifier, OidcProvider } from './oidc.js';
import { createSshTokenVerifier } from './ssh-token.js';
import { readText } from './tls.js';
import { createDelegationVerifier, isDelegation, type LearnedKeys } from './tokens.js';
import type { Users } from './users.js';

/** Whose bearer tokens a service accepts, besides those that users sign with their SSH keys. */
export const BearerConfig = z.strictObject({
  /** Certificates of servers that may speak for users by delegation tokens. */
  issuerFiles: z.array(file).default([]),
  /** Servers that sign theirs by a secret which both have (HS256), of 32 bytes or more. */
  sharedSecrets: z.array(z.strictObject({ issuer: dn, secretFile: file })).default([]),
  oidc: z.array(OidcProvider).default([]),
});
export type BearerConfig = z.output<typeof BearerConfig>;

/**
 * Recognises one kind of token. @returns `undefined`: it is none of its kind
 * @throws `UNAUTHENTICATED`: it is of this kind, and no good; `SITE_UNAVAILABLE`: who could tell does not answer
 */
export type BearerVerifier = (
  token: string,
  claimed: JWTPayload | undefined,
) => Promise<Identity | undefined>;

export type BearerDeps = {
  readonly users: Users;
  readonly clock: Clock;
  /** Who we are in tokens; absent: those that are limited to one server are never for us. */
  readonly serverDn?: string;
  /** Ours, whose tokens come back to us. */
  readonly certificate?: X509Certificate;
  readonly learned?: LearnedKeys | undefined;
};

/** The kinds of bearer tokens that are accepted, in the order in which they are tried. */
export async function createBearers(
  { issuerFiles, sharedSecrets, oidc }: BearerConfig,
  { users, clock, serverDn, certificate, learned }: BearerDeps,
): Promise<BearerVerifier[]> {
  const pems = await Promise.all(issuerFiles.map(readText));
  const issuers = pems.map((pem) => new X509Certificate(pem));
  const verifyDelegation = createDelegationVerifier({
    issuers: certificate ? [certificate, ...issuers] : issuers,
    secrets: await Promise.all(sharedSecrets.map(readSecret)),
    ...(serverDn !== undefined && { serverDn }),
    learned,
    clock,
  });
  const verifySshToken = createSshTokenVerifier(users, clock);
  const providers = await Promise.all(
    oidc.map(async (provider) => {
      const secret = provider.clientSecretFile && (await readText(provider.clientSecretFile));
      const ca = provider.caFile && (await readText(provider.caFile));
      return createOidcVerifier({ ...provider, clientSecret: secret?.trim(), ca, clock });
    }),
  );
  return [
    async (token, claimed) =>
      claimed && isDelegation(claimed) ? await verifyDelegation(token, claimed) : undefined,
    async (token, claimed) => claimed && (await verifySshToken(token, claimed)),
    ...providers,
  ];
}

async function readSecret({ issuer, secretFile }: { issuer: string; secretFile: string }) {
  const secret = Buffer.from((await readText(secretFile)).trim());
  if (secret.length < 32)
    throw new ConfigError('CONFIG_INVALID', `${secretFile}: a secret has 32 bytes or more`);
  return { issuerDn: issuer, key: createSecretKey(secret) };
}
