import { z } from 'zod';
import { dn } from '#kernel/config.js';

/** Servers that get our word for users: where each is, by https, and its DN, which the word is good for alone. */
export const TrustedSites = z
  .array(
    z.strictObject({
      url: z
        .url({ protocol: /^https$/, error: 'must be a URL with https' })
        .refine(
          (text) => !/[?#@]/.test(text),
          'must be an address only, as https://host:8080/SITE',
        ),
      dn,
    }),
  )
  .max(64)
  .default([]);
export type TrustedSites = z.output<typeof TrustedSites>;
