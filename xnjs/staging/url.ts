import { parseUnicoreUrl } from './unicore-client.js';

/** `https://user:password@host/x` becomes `https://host/x`. */
export function withoutUserInfo(url: string): string {
  return url.replace(/(:\/\/)[^/?#]*@/, '$1');
}

/** A URL for logs: also without a query, which may hold a signature or a token. */
export function withoutSecrets(url: string): string {
  const shown = withoutUserInfo(url);
  return parseUnicoreUrl(url) || !/^(?:git[:+])?https?:/i.test(url)
    ? shown
    : shown.replace(/[?#].*$/, '');
}
