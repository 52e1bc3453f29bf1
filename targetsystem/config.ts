import { z } from 'zod';
import { file, port } from '#kernel/config.js';
import { BearerConfig } from '#kernel/security/bearers.js';
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
      tls: z.strictObject({ keyFile: file, certFile: file }),
    }),
  ]),
  /** Address for links in answers to requests that did not come through the gateway. */
  externalUrl: z.url(),
  /** Name of the image repository's site at the same gateway. */
  imagesSite: z.string().default('IMAGES'),
  /** Our own key and certificate; signs for whom we ask the image repository. */
  credential: z.strictObject({ keyFile: file, certFile: file }),
  /** Certificates of the gateways whose word about a client counts. */
  consignorFiles: z.array(file),
  usersFile: file,
  /** Whose bearer tokens count, besides our own and those that users sign by SSH key. */
  bearers: BearerConfig.prefault({}),
  sessionSeconds: z.number().positive().default(28_800),
  /** Image for jobs of users who have no target system yet; absent: such jobs are refused. */
  defaultImage: z.string().optional(),
  events: EventsConfig.prefault({}),
  forwarding: ForwardingConfig.prefault({}),
  xnjs: XnjsConfig,
});
export type TargetsystemConfig = z.output<typeof TargetsystemConfig>;
