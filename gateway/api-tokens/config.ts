import { z } from 'zod';
import { file } from '#kernel/config.js';

const httpsUrl = z.url({ protocol: /^https$/, error: 'must be an https URL' }).max(1024);
const tokenUrl = z
  .string()
  .max(1024)
  .refine(
    (text) => /^\/[^/?#\s\\][^?#\s\\]*$/.test(text) || isAddress(text),
    'must be a path below the site, such as /rest/core/token, or an https URL with a path and without query',
  );

function isAddress(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, pathname, username, password, search, hash } = new URL(text);
  return protocol === 'https:' && pathname !== '/' && username + password + search + hash === '';
}

/** Users of an OpenID Connect provider get tokens of the sites at `/generate-token` (unicore-rest 5.1). */
export const ApiTokens = z.strictObject({
  /** The provider's issuer identifier. It has to know our address, `https://…/generate-token/callback`. */
  issuer: httpsUrl,
  clientId: z.string().min(1),
  clientSecretFile: file,
  /** How the secret is shown to the provider. */
  authentication: z.enum(['basic', 'post']).default('basic'),
  /** Authority of the provider's certificate; default: those of the system. */
  caFile: file.optional(),
  /** Default: as the provider says itself. */
  endpoints: z.strictObject({ authorization: httpsUrl, token: httpsUrl }).optional(),
  scope: z
    .string()
    .max(1024)
    .default('openid profile')
    .refine((text) => text.split(' ').includes('openid'), 'must contain openid'),
  /** What the provider asks of a user who has logged in there before. */
  prompt: z.enum(['login', 'consent', 'select_account']).default('login'),
  /** What the form proposes. */
  lifetimeSeconds: z.int().positive().max(31_622_400).default(86_400),
  /** Where each site gives tokens; default: `/rest/core/token` of all sites of the configuration. */
  sites: z.record(z.string(), tokenUrl).optional(),
});
export type ApiTokens = z.output<typeof ApiTokens>;

export const defaultTokenPath = '/rest/core/token';
