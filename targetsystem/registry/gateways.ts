import { readFile } from 'node:fs/promises';
import type { Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { createHttpClient } from '#kernel/http/client.js';
import type { Log } from '#kernel/log.js';
import { readText } from '#kernel/security/tls.js';
import type { GatewayAtConfig } from '../config.js';
import { RepeatedCalls } from './repeated-calls.js';

export type GatewaysOptions = {
  readonly gateways: readonly GatewayAtConfig[];
  readonly siteName: string;
  /** Where this server listens, for gateways whose configuration does not say. */
  readonly address: string | undefined;
  readonly clock: Clock;
  readonly log: Log;
  readonly timeoutMs?: number;
};

const path = '/VSITE_REGISTRATION_REQUEST';
const accepted = 201;

/**
 * Tells gateways elsewhere where this site is, at fixed intervals: a gateway that has started anew knows of nobody
 * (unicore-rest 5.5).
 */
export function registerAtGateways(options: GatewaysOptions): RepeatedCalls {
  const { gateways, clock, log } = options;
  const says = { ok: 'registered at a gateway', failed: 'a gateway does not take this site' };
  return new RepeatedCalls({
    calls: gateways.map((gateway) => ({
      ...{ name: `Gateway ${gateway.url}`, url: gateway.url, says },
      longestRetryMs: gateway.intervalSeconds * 1_000,
      call: async (signal) => {
        await register(gateway, options, signal);
        return gateway.intervalSeconds * 1_000;
      },
    })),
    clock,
    log: log.child({ part: 'targetsystem.gateways' }),
  });
}

/** Secret and authority are read each time: both are renewed while we run. */
async function register(
  { url, secretFile, caFile, address }: GatewayAtConfig,
  { siteName: name, address: own, timeoutMs = 15_000 }: GatewaysOptions,
  signal: AbortSignal,
): Promise<void> {
  const secret = (await readText(secretFile)).trim();
  const tls = caFile === undefined ? {} : { tls: { ca: await readFile(caFile, 'utf8') } };
  await using client = createHttpClient({ baseUrl: url, timeoutMs, ...tls });
  const form = { name, address: address ?? own ?? '', secret };
  const { status } = await client.form(path, form, { signal });
  if (status !== accepted) throw new GridError('PEER_FAILED', `${url}${path} answered ${status}`);
}
