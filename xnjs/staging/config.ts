import ipaddr from 'ipaddr.js';
import { z } from 'zod';
import { file } from '#kernel/config.js';
import { TrustedSites } from './trusted-sites.js';

const addressRange = z
  .string()
  .refine(
    (text) => ipaddr.isValid(text) || ipaddr.isValidCIDR(text),
    'must be an IP address or a range such as 10.1.0.0/16',
  );

/** Settings of data staging. */
export const StagingConfig = z.strictObject({
  /** Transfers at once in the server, and for one job. Each needs about 6 MiB of memory. */
  transfers: z.int().min(1).default(8),
  transfersPerJob: z.int().min(1).default(4),
  /** A transfer that breaks is tried again so often without getting on, after growing waits. */
  retries: z.int().min(0).default(5),
  retryFirstMs: z.int().min(1).default(1_000),
  retryMaxMs: z.int().min(1).default(60_000),
  /** A peer that is silent for so long has left. */
  silenceMs: z.int().min(10).default(60_000),
  /**
   * Private, local and other special addresses that users may have the server talk to. Public ones need no
   * permission.
   */
  allowAddresses: z.array(addressRange).default([]),
  /** Certificates (PEM) of authorities that are trusted besides the well-known ones. */
  trustFiles: z.array(file).default([]),
  /** More addresses of this site, `https://host:port/VSITE`: its storages are reached without HTTP. */
  siteUrls: z.array(z.url()).default([]),
  /**
   * UNICORE sites that are told for whom we ask, by a token that is good there only: `https://host:port/SITE`
   * and the DN of its server.
   */
  trustedSites: TrustedSites,
  /** Largest pack of a git repository. */
  gitMaxBytes: z
    .int()
    .min(1)
    .default(8 * 1024 ** 3),
});
export type StagingConfig = z.output<typeof StagingConfig>;
