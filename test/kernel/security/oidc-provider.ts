import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import Provider, { type InteractionResults } from 'oidc-provider';
import { createCa, issueCertificate } from '#kernel/security/ca.js';

export const oidcClient = { id: 'grid', secret: 'a secret of the client' } as const;

export type OidcProviderOptions = {
  /** Where users may be sent back to. */
  readonly redirectUris?: string[];
  /** Who sits at the browser, and agrees to everything; default: a user who refuses. */
  readonly user?: () => string | undefined;
};

/** A real provider of OpenID Connect, with an authority of its own. */
export async function startOidcProvider({
  redirectUris = ['https://grid.example/'],
  user = () => undefined,
}: OidcProviderOptions = {}) {
  const authority = await createCa('CN=Provider CA');
  const hosts = ['127.0.0.1'];
  const own = await issueCertificate(authority, { subject: 'CN=op', usage: 'server', hosts });
  const key = own.key.export({ type: 'pkcs8', format: 'pem' });
  let requests = 0;
  const server = createServer({ key, cert: own.certificate.toString() }, (request, response) => {
    requests += 1;
    if (request.url?.startsWith('/interaction/')) void interact(request, response);
    else void provider.callback()(request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const issuer = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: oidcClient.id,
        client_secret: oidcClient.secret,
        redirect_uris: redirectUris,
        grant_types: ['authorization_code'],
      },
    ],
    claims: { openid: ['sub'], profile: ['preferred_username', 'name'] },
    ttl: { AccessToken: 600, Grant: 600, IdToken: 600, Interaction: 600, Session: 600 },
    features: {
      introspection: { enabled: true },
      revocation: { enabled: true, allowedPolicy: () => Promise.resolve(true) },
      devInteractions: { enabled: false },
    },
    interactions: { url: (_context, { uid }) => `/interaction/${uid}` },
    cookies: { keys: ['signs cookies of this test'] },
    findAccount: (_context, sub) => ({
      accountId: sub,
      claims: () => ({ sub, preferred_username: sub, name: `Doe, ${sub} "X"` }),
    }),
  });
  /** What the user answers to the pages of the provider, of which there are none here. */
  async function interact(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { prompt, params } = await provider.interactionDetails(request, response);
    const accountId = user();
    const refusal = { error: 'access_denied', error_description: '<b>not</b> today' };
    let result: InteractionResults = refusal;
    if (accountId !== undefined && prompt.name === 'login') result = { login: { accountId } };
    else if (accountId !== undefined) {
      const grant = new provider.Grant({ accountId, clientId: String(params['client_id']) });
      grant.addOIDCScope(String(params['scope']));
      result = { consent: { grantId: await grant.save() } };
    }
    await provider.interactionFinished(request, response, result);
  }
  return {
    issuer,
    /** Whether an access token is good. */
    isGood: async (token: string): Promise<boolean> =>
      (await provider.AccessToken.find(token)) !== undefined,
    ca: authority.certificate.toString(),
    requests: () => requests,
    /** As the provider gives it to a client after its user has agreed. */
    async tokenOf(accountId: string): Promise<string> {
      const client = await provider.Client.find(oidcClient.id);
      const grant = new provider.Grant({ accountId, clientId: oidcClient.id });
      grant.addOIDCScope('openid profile');
      const grantId = await grant.save();
      const token = new provider.AccessToken({
        accountId,
        client: client!,
        grantId,
        scope: 'openid profile',
        gty: 'authorization_code',
        expiresWithSession: false,
      });
      return await token.save();
    },
    async [Symbol.asyncDispose](): Promise<void> {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
export type RunningOidcProvider = Awaited<ReturnType<typeof startOidcProvider>>;
