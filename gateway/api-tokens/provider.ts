import type * as OpenId from 'openid-client';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { providerUnavailable } from '#kernel/security/oidc-discovery.js';
import { tokensPath } from '../config.js';
import { GatewayError } from '../reply.js';
import type { Login } from './login-cookie.js';

/** Where the provider sends users back to, at the gateway. */
export const callbackPath = `/${tokensPath}/callback`;

export type ProviderOptions = {
  readonly issuer: string;
  readonly scope: string;
  readonly prompt: string;
  readonly discover: () => Promise<OpenId.Configuration>;
};

/** Codes of the library for answers that have come. */
const aboutContents = /^OAUTH_(?!TIMEOUT|ABORT)/;

/** A user's word from the provider, to be shown to sites and then to be forgotten. */
export type Access = {
  readonly token: string;
  /** Tells the provider, where it can be told, that the token is good no more. */
  readonly revoke: (log: Log) => Promise<void>;
};

/** The provider that users log in at: code flow, with a proof, a state and a nonce of each login. */
export class Provider {
  readonly #options: ProviderOptions;

  constructor(options: ProviderOptions) {
    this.#options = options;
  }

  get issuer(): string {
    return this.#options.issuer;
  }

  /** @returns where to send the user, and what to check the answer with */
  async begin(origin: string): Promise<Omit<Login, 'wish'> & { readonly url: URL }> {
    const { issuer, discover, scope, prompt } = this.#options;
    const configuration = await discover();
    const oidc = await import('openid-client');
    const verifier = oidc.randomPKCECodeVerifier();
    const [state, nonce] = [oidc.randomState(), oidc.randomNonce()];
    const url = oidc.buildAuthorizationUrl(configuration, {
      ...{ redirect_uri: origin + callbackPath, scope, prompt, state, nonce },
      code_challenge: await oidc.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    });
    return { url, issuer, origin, state, nonce, verifier };
  }

  /**
   * Exchanges the code that the user's browser has brought.
   * @param query as it was asked, without `?`
   * @throws {@link GatewayError} `FORBIDDEN` the user may not, or does not want to; `BAD_REQUEST` the code is no good
   */
  async finish(query: string, { origin, state, nonce, verifier }: Login): Promise<Access> {
    const configuration = await this.#options.discover();
    const oidc = await import('openid-client');
    try {
      const { access_token: token } = await oidc.authorizationCodeGrant(
        configuration,
        new URL(`${origin}${callbackPath}?${query}`),
        { expectedState: state, expectedNonce: nonce, pkceCodeVerifier: verifier },
      );
      return { token, revoke: (log) => this.#revoke(configuration, token, log) };
    } catch (cause) {
      throw this.#refusalOf(oidc, cause);
    }
  }

  #refusalOf(oidc: typeof OpenId, cause: unknown): Error {
    const { issuer } = this.#options;
    if (cause instanceof oidc.AuthorizationResponseError) {
      const text = `${issuer} has not logged you in: ${saidBy(cause)}`;
      const code = cause.error === 'temporarily_unavailable' ? 'SITE_UNAVAILABLE' : 'FORBIDDEN';
      return new GatewayError(code, text, { issuer }, { cause });
    }
    if (cause instanceof oidc.ResponseBodyError) {
      const isUsed = cause.error === 'invalid_grant';
      const text = isUsed
        ? 'this login has been used already, or took too long'
        : `${issuer} refuses this gateway: ${saidBy(cause)}`;
      return new GatewayError(isUsed ? 'BAD_REQUEST' : 'PEER_FAILED', text, { issuer }, { cause });
    }
    // 401 of a client that it does not know
    if (cause instanceof oidc.WWWAuthenticateChallengeError) {
      const text = `${issuer} refuses this gateway: ${cause.status}`;
      return new GatewayError('PEER_FAILED', text, { issuer }, { cause });
    }
    if (cause instanceof oidc.ClientError && aboutContents.test(cause.code ?? '')) {
      const text = `the answer of ${issuer} makes no sense: ${errorText(cause)}`;
      return new GatewayError('PEER_FAILED', text, { issuer }, { cause });
    }
    return providerUnavailable(issuer, cause);
  }

  async #revoke(configuration: OpenId.Configuration, token: string, log: Log): Promise<void> {
    if (configuration.serverMetadata().revocation_endpoint === undefined) return;
    const oidc = await import('openid-client');
    await oidc
      .tokenRevocation(configuration, token, { token_type_hint: 'access_token' })
      .catch((error: unknown) => {
        // it ends by itself; the error may tell more than a log should hold
        log.warn({ reason: errorText(error) }, 'access token not revoked');
      });
  }
}

type Said = { readonly error: string; readonly error_description?: string | undefined };

/** Words of the provider, or of whoever has made the address that the browser brought. */
function saidBy({ error, error_description: description }: Said): string {
  return (description === undefined ? error : `${error}, ${description}`).slice(0, 200);
}
