import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { loadConfig } from '#kernel/config.js';
import type { LocalService } from '#kernel/http/local.js';
import type { Log } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';

type LocalServices = ReadonlyMap<string, LocalService>;
type Started = {
  /** Its address at a gateway, and itself for one in this process. */
  readonly site?: readonly [address: string, service: LocalService] | undefined;
  close(): Promise<void>;
};
type Start = (file: string, log: Log, local: LocalServices) => Promise<Started>;

/**
 * In the order in which they need each other; `<name>.yaml` is their configuration. Loaded when they are
 * started, so that other commands, and a gateway alone, come up at once.
 */
const services = {
  imagerepo: async (file, log) => {
    const { ImagerepoConfig, startImagerepo } = await import('#imagerepo/main.js');
    const config = await loadConfig(file, ImagerepoConfig);
    return toStarted(config, await startImagerepo(config, { log }));
  },
  targetsystem: async (file, log) => {
    const { TargetsystemConfig, startTargetsystem } = await import('#targetsystem/main.js');
    const config = await loadConfig(file, TargetsystemConfig);
    return toStarted(config, await startTargetsystem(config, { log }));
  },
  gateway: async (file, log, local) => {
    const { GatewayConfig, startGateway } = await import('#gateway/main.js');
    const config = await loadConfig(file, GatewayConfig);
    return await startGateway(config, { log, configFile: file, local });
  },
} as const satisfies Record<string, Start>;

/** Only one behind a unix socket: whoever comes by TLS is to be seen with his certificate. */
function toStarted(
  { listen }: { readonly listen: { readonly unix: string } | { readonly host: string } },
  service: { readonly local: LocalService; close(): Promise<void> },
): Started {
  const site = 'unix' in listen ? ([`unix:${listen.unix}`, service.local] as const) : undefined;
  return { site, close: () => service.close() };
}

export type ServiceName = keyof typeof services;
export const serviceNames = Object.keys(services) as ServiceName[];

/**
 * How much the heap may grow before it is tidied up. Node would let it become several times as large, for
 * garbage of requests that are long answered, where the machine has the memory.
 */
export const growthFlag = '--heap-growing-percent=50';
/**
 * What is made where a start has made what stays, such as what is read of thousands of machines, would be taken for
 * what stays as well, and lie between what does until all of the heap is gone through.
 */
const youngFlag = '--no-allocation-site-pretenuring';

/**
 * Runs services in this process until the signal: all of them, or those that are named.
 * @param directory holds their configuration files
 */
export async function serve(
  directory: string,
  names: readonly ServiceName[],
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  for (const flag of [growthFlag, youngFlag]) setFlagsFromString(flag);
  await using scope = new Scope();
  const local = new Map<string, LocalService>();
  for (const name of serviceNames) {
    if (!names.includes(name) || signal.aborted) continue;
    const service: Started = await services[name](join(directory, `${name}.yaml`), log, local);
    if (service.site) local.set(...service.site);
    scope.defer(() => service.close());
  }
  log.info({ services: names }, 'ready');
  if (!signal.aborted)
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  log.info('closing');
}
