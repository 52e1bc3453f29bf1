import type { Configuration, CustomFetch } from 'openid-client';
import { Agent, fetch } from 'undici';
import type { Clock } from '#kernel/clock.js';
import { errorText, GridError } from '#kernel/errors.js';

export type OidcClient = {
  /** The provider's issuer identifier. */
  readonly issuer: string;
  readonly clientId: string;
  readonly clientSecret?: string | undefined;
  /** How the secret is shown; default: as the library does it, in the body. */
  readonly authentication?: 'basic' | 'post' | undefined;
  /** Authority of the provider's certificate; absent: the system's. */
  readonly ca?: string | undefined;
  /** Where the provider does what, instead of asking it. */
  readonly endpoints?: { readonly authorization: string; readonly token: string } | undefined;
};

const callSeconds = 10;
const retryMs = 10_000;
const longestAnswerBytes = 1024 * 1024;

/**
 * What a provider says of itself. It may be away when we start: it is asked again, but not with every request.
 * @returns asks it when it is first needed, @throws `SITE_UNAVAILABLE` if it does not answer
 */
export function createOidcDiscovery(
  client: OidcClient,
  clock: Clock,
): () => Promise<Configuration> {
  return retried(() => discovery(client), clock);
}

function retried<T>(work: () => Promise<T>, clock: Clock): () => Promise<T> {
  let last: { readonly result: Promise<T>; readonly atMs: number } | undefined;
  let failed = false;
  return () => {
    if (!last || (failed && clock.now() - last.atMs > retryMs)) {
      failed = false;
      const result = work();
      result.catch(() => (failed = true));
      last = { result, atMs: clock.now() };
    }
    return last.result;
  };
}

async function discovery(client: OidcClient): Promise<Configuration> {
  const { issuer, clientId, clientSecret, authentication, ca, endpoints } = client;
  const oidc = await import('openid-client'); // costs memory: only where there is a provider
  const dispatcher = new Agent({
    connect: ca === undefined ? {} : { ca },
    maxResponseSize: longestAnswerBytes,
  });
  // the two libraries mean the same by their types
  const ask = ((url: string, init: object) =>
    fetch(url, { ...init, dispatcher })) as unknown as CustomFetch;
  const method =
    authentication &&
    { basic: oidc.ClientSecretBasic, post: oidc.ClientSecretPost }[authentication](clientSecret);
  if (endpoints) {
    const { authorization, token } = endpoints;
    const server = { issuer, authorization_endpoint: authorization, token_endpoint: token };
    const configuration = new oidc.Configuration(server, clientId, clientSecret, method);
    configuration[oidc.customFetch] = ask;
    configuration.timeout = callSeconds;
    return configuration;
  }
  try {
    const options = { timeout: callSeconds, [oidc.customFetch]: ask };
    return await oidc.discovery(new URL(issuer), clientId, clientSecret, method, options);
  } catch (cause) {
    throw providerUnavailable(issuer, cause);
  }
}

export function providerUnavailable(issuer: string, cause: unknown): GridError {
  const text = `the identity provider ${issuer} does not answer: ${errorText(cause)}`;
  return new GridError('SITE_UNAVAILABLE', text, { issuer }, { cause });
}
