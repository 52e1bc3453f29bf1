import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { GatewayConfig } from '#gateway/config.js';
import { ImagerepoConfig } from '#imagerepo/main.js';
import { loadConfig } from '#kernel/config.js';
import { TargetsystemConfig } from '#targetsystem/main.js';

/** What an installation is to be. */
export type Configuration = {
  readonly gateway: GatewayConfig;
  readonly imagerepo: ImagerepoConfig;
  readonly targetsystem: TargetsystemConfig;
};

/** @throws `CONFIG_INVALID` naming file, field and reason */
export async function readConfiguration(directory: string): Promise<Configuration> {
  const at = (name: string): string => join(directory, `${name}.yaml`);
  await readdir(directory);
  return {
    gateway: await loadConfig(at('gateway'), GatewayConfig),
    imagerepo: await loadConfig(at('imagerepo'), ImagerepoConfig),
    targetsystem: await loadConfig(at('targetsystem'), TargetsystemConfig),
  };
}
