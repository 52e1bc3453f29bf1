import { once } from 'node:events';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import Provider from 'oidc-provider';
import { createCa, issueCertificate } from '#kernel/security/ca.js';

export const oidcClient = { id: 'grid', secret: 'a secret of the client' } as const;

/** A real provider of OpenID Connect, with an authority of its own. */
export async function startOidcProvider() {
  const authority = await createCa('CN=Provider CA');
  const hosts = ['127.0.0.1'];
  const own = await issueCertificate(authority, { subject: 'CN=op', usage: 'server', hosts });
  const key = own.key.export({ type: 'pkcs8', format: 'pem' });
  let requests = 0;
  const server = createServer({ key, cert: own.certificate.toString() }, (request, response) => {
    requests += 1;
    void provider.callback()(request, response);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const issuer = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: oidcClient.id,
        client_secret: oidcClient.secret,
        redirect_uris: ['https://grid.example/'],
        // introspection only
        grant_types: ['authorization_code'],
      },
    ],
    claims: { openid: ['sub'], profile: ['preferred_username', 'name'] },
    ttl: { AccessToken: 600, Grant: 600 },
    features: { introspection: { enabled: true }, devInteractions: { enabled: false } },
    findAccount: (_context, sub) => ({
      accountId: sub,
      claims: () => ({ sub, preferred_username: sub, name: `Doe, ${sub} "X"` }),
    }),
  });
  return {
    issuer,
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
