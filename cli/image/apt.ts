import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './run.js';

/** Where apt's lists are, as options for apt-get and apt-cache: the system's, or our own. */
export type Apt = readonly string[];

/**
 * Asks the system's package lists, and where they are missing or outdated, own ones below `cacheDir`.
 * Needs no root.
 */
export async function withApt<T>(cacheDir: string, action: (apt: Apt) => Promise<T>): Promise<T> {
  const own = join(cacheDir, 'apt');
  const folders = { 'Dir::State::lists': join(own, 'lists'), 'Dir::Cache': join(own, 'cache') };
  const sandbox = process.getuid?.() === 0 ? ['-o', 'APT::Sandbox::User=root'] : [];
  const options = Object.entries(folders).flatMap(([key, path]) => ['-o', `${key}=${path}`]);
  const apt = [...sandbox, ...options, '-o', 'Debug::NoLocking=1'];
  try {
    return await action(sandbox);
  } catch {
    // no lists, or too old ones: what they name is no longer on the server
  }
  try {
    return await action(apt);
  } catch {
    for (const path of Object.values(folders))
      await mkdir(join(path, 'partial'), { recursive: true });
    await run('apt-get', [...apt, 'update']);
    return action(apt);
  }
}
