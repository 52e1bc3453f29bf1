import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { ConfigError } from '#kernel/config.js';
import { readText } from '#kernel/security/tls.js';
import { siteName, type GatewayConfig } from './config.js';
import { readForm } from './form.js';
import { GatewayError } from './reply.js';

/** A site that told us its address. */
export type Registered = { readonly name: string; readonly address: string };

/** Who may register; the secret is kept as a digest. */
export type RegistrationRules = {
  readonly secret: Buffer;
  readonly allow: readonly string[] | undefined;
  readonly deny: readonly string[];
};

export const registrationPath = 'VSITE_REGISTRATION_REQUEST';
const shortestSecret = 16;
export const mostRegistered = 1_000;

/** @throws {@link ConfigError} `CONFIG_INVALID` for a secret that could be guessed */
export async function loadRegistration({
  secretFile,
  allow,
  deny,
}: NonNullable<GatewayConfig['registration']>): Promise<RegistrationRules> {
  const secret = (await readText(secretFile)).trim();
  if (secret.length < shortestSecret) {
    const reason = `registration.secretFile: shorter than ${shortestSecret} characters`;
    throw new ConfigError('CONFIG_INVALID', reason, { path: secretFile });
  }
  return { secret: digest(secret), allow, deny };
}

/**
 * Reads what a site sends (unicore-rest 5.5).
 * @throws {@link GatewayError} `FORBIDDEN` for a wrong secret; `BAD_REQUEST`, `TOO_LARGE`
 */
export async function readRegistration(
  request: IncomingMessage,
  rules: RegistrationRules,
): Promise<Registered> {
  const form = await readForm(request);
  // First, and alone: who does not know it learns nothing else
  if (!timingSafeEqual(digest(form.get('secret') ?? ''), rules.secret)) {
    throw new GatewayError('FORBIDDEN', 'registration refused');
  }
  const name = siteName.safeParse(form.get('name'));
  if (!name.success) throw new GatewayError('BAD_REQUEST', 'name: must be a word');
  const address = form.get('address') ?? '';
  const url = address.length <= 1_024 && URL.canParse(address) ? new URL(address) : undefined;
  if (url?.protocol !== 'https:' || url.username !== '' || url.search !== '' || url.hash !== '') {
    throw new GatewayError('BAD_REQUEST', 'address: must be https://host:port');
  }
  const isOneOf = (patterns: readonly string[]) => patterns.some((each) => fits(each, url));
  if (isOneOf(rules.deny) || (rules.allow && !isOneOf(rules.allow))) {
    throw new GatewayError('BAD_REQUEST', 'address: this host may not register');
  }
  return { name: name.data, address: url.href.replace(/\/+$/, '') };
}

/** `*.example.org` fits what is below it; a port in the pattern must be the address's. */
function fits(pattern: string, url: URL): boolean {
  const [, host = '', port] = /^(.*?)(?::(\d+))?$/.exec(pattern.toLowerCase()) ?? [];
  if (port !== undefined && port !== (url.port || '443')) return false;
  return host.startsWith('*.') ? url.hostname.endsWith(host.slice(1)) : url.hostname === host;
}

function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
