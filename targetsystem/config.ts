import { z } from 'zod';
import { file, port } from '#kernel/config.js';
import { identityConfig } from '#kernel/security/open-identity.js';
import { XnjsConfig } from '#xnjs/index.js';
import { EventsConfig } from './rest/event-streams.js';
import { ForwardingConfig } from './rest/forwarding-connections.js';

export const TargetsystemConfig = z.strictObject({
  /** Name of this site behind the gateway. */
  siteName: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/, 'must be a word'),
  listen: z.union([
    z.strictObject({ unix: z.string() }),
    z.strictObject({
      host: z.string(),
      port,
      tls: z.strictObject({
        keyFile: file,
        certFile: file,
        /** Authorities of clients who come without a gateway, with certificates; default: none do. */
        trustFiles: z.array(file).default([]),
      }),
    }),
  ]),
  /** Address for links in answers to requests that did not come through the gateway. */
  externalUrl: z.url(),
  /** Name of the image repository's site at the same gateway. */
  imagesSite: z.string().default('IMAGES'),
  /** Our own key and certificate; signs for whom we ask the image repository. */
  credential: z.strictObject({ keyFile: file, certFile: file }),
  ...identityConfig,
  /** Image for jobs of users who have no target system yet; absent: such jobs are refused. */
  defaultImage: z.string().optional(),
  events: EventsConfig.prefault({}),
  forwarding: ForwardingConfig.prefault({}),
  xnjs: XnjsConfig,
});
export type TargetsystemConfig = z.output<typeof TargetsystemConfig>;
