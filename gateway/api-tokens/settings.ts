import { systemClock } from '#kernel/clock.js';
import { ConfigError } from '#kernel/config.js';
import { createOidcDiscovery } from '#kernel/security/oidc-discovery.js';
import { readText } from '#kernel/security/tls.js';
import { defaultTokenPath, type ApiTokens } from './config.js';
import type { ApiTokenSettings } from './generator.js';
import { LoginCookie } from './login-cookie.js';
import { Provider } from './provider.js';

type Config = { readonly apiTokens?: ApiTokens | undefined; readonly sites: object };

/**
 * Reads what the generator needs. The provider is asked when a user comes: it may be away now.
 * @param secret all processes know it
 * @throws {@link ConfigError} `CONFIG_INVALID` naming the file
 */
export async function loadApiTokens(
  { apiTokens, sites }: Config,
  server: ApiTokenSettings['server'],
  secret: Buffer,
): Promise<ApiTokenSettings | undefined> {
  if (!apiTokens) return undefined;
  const { issuer, clientId, clientSecretFile, caFile, scope, prompt } = apiTokens;
  const { authentication, endpoints, lifetimeSeconds } = apiTokens;
  const clientSecret = (await readText(clientSecretFile)).trim();
  if (clientSecret === '') {
    const reason = `apiTokens.clientSecretFile: ${clientSecretFile} is empty`;
    throw new ConfigError('CONFIG_INVALID', reason, { path: clientSecretFile });
  }
  const ca = caFile === undefined ? undefined : await readText(caFile);
  const client = { issuer, clientId, clientSecret, authentication, endpoints, ca };
  const discover = createOidcDiscovery(client, systemClock);
  return {
    ...{ server, lifetimeSeconds },
    provider: new Provider({ issuer, scope, prompt, discover }),
    cookie: new LoginCookie(secret, systemClock),
    tokenUrls: new Map(
      Object.entries(
        apiTokens.sites ??
          Object.fromEntries(Object.keys(sites).map((name) => [name, defaultTokenPath])),
      ),
    ),
  };
}
