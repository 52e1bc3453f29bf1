import { z } from 'zod';
import { errorText } from '#kernel/errors.js';
import { parsePreferences } from '#kernel/security/preferences.js';
import { GatewayError } from '../reply.js';

/** What tokens a user asks for. */
export const Wish = z.object({
  sites: z.array(z.string()),
  lifetimeSeconds: z.number(),
  renewable: z.boolean(),
  limited: z.boolean(),
  /** As in `X-UNICORE-User-Preferences`. */
  preferences: z.string().optional(),
});
export type Wish = z.output<typeof Wish>;

const longestSeconds = 31_622_400;
const longestPreferences = 512;

/**
 * Reads the form.
 * @param offered names of the sites that there are
 * @throws {@link GatewayError} `BAD_REQUEST` naming the field
 */
export function readWish(form: URLSearchParams, offered: readonly string[]): Wish {
  const sites = [...new Set(form.getAll('site'))];
  if (sites.length === 0) throw new GatewayError('BAD_REQUEST', 'site: choose at least one');
  const unknown = sites.find((name) => !offered.includes(name));
  if (unknown !== undefined)
    throw new GatewayError('BAD_REQUEST', `site: ${unknown.slice(0, 64)} gives no tokens here`);
  const lifetime = form.get('lifetime') ?? '';
  const lifetimeSeconds = Number(lifetime);
  if (!/^\d{1,9}$/.test(lifetime) || lifetimeSeconds < 1 || lifetimeSeconds > longestSeconds)
    throw new GatewayError('BAD_REQUEST', `lifetime: must be 1 to ${longestSeconds} seconds`);
  const preferences = readPreferences(form.get('userprefs')?.trim() ?? '');
  return {
    ...{ sites, lifetimeSeconds, renewable: form.has('renewable'), limited: form.has('limited') },
    ...(preferences !== '' && { preferences }),
  };
}

/** It becomes a header. */
function readPreferences(text: string): string {
  if (text.length > longestPreferences || !/^[\x20-\x7e]*$/.test(text)) {
    const reason = `userprefs: at most ${longestPreferences} characters of ASCII`;
    throw new GatewayError('BAD_REQUEST', reason);
  }
  try {
    if (text !== '') parsePreferences(text);
  } catch (error) {
    throw new GatewayError('BAD_REQUEST', `userprefs: ${errorText(error)}`);
  }
  return text;
}
