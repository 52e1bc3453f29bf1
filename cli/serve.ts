import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { loadConfig } from '#kernel/config.js';
import type { Log } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';

type Start = (file: string, log: Log) => Promise<{ close(): Promise<void> }>;

/**
 * In the order in which they need each other; `<name>.yaml` is their configuration. Loaded when they are
 * started, so that other commands, and a gateway alone, come up at once.
 */
const services = {
  imagerepo: async (file, log) => {
    const { ImagerepoConfig, startImagerepo } = await import('#imagerepo/main.js');
    return await startImagerepo(await loadConfig(file, ImagerepoConfig), { log });
  },
  targetsystem: async (file, log) => {
    const { TargetsystemConfig, startTargetsystem } = await import('#targetsystem/main.js');
    return await startTargetsystem(await loadConfig(file, TargetsystemConfig), { log });
  },
  gateway: async (file, log) => {
    const { GatewayConfig, startGateway } = await import('#gateway/main.js');
    return await startGateway(await loadConfig(file, GatewayConfig), { log, configFile: file });
  },
} as const satisfies Record<string, Start>;

export type ServiceName = keyof typeof services;
export const serviceNames = Object.keys(services) as ServiceName[];

/**
 * How much the heap may grow before it is tidied up. Node would let it become several times as large, for
 * garbage of requests that are long answered, where the machine has the memory.
 */
const growthFlag = '--heap-growing-percent=50';

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
  setFlagsFromString(growthFlag);
  await using scope = new Scope();
  for (const name of serviceNames) {
    if (!names.includes(name) || signal.aborted) continue;
    const service = await services[name](join(directory, `${name}.yaml`), log);
    scope.defer(() => service.close());
  }
  log.info({ services: names }, 'ready');
  if (!signal.aborted)
    await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
  log.info('closing');
}
