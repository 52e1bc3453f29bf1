import { existsSync } from 'node:fs';
import { chmod, cp, mkdtemp, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { writeIdentities } from '#cli/quickstart/configuration.js';
import { layoutOf, type Layout } from '#cli/quickstart/layout.js';

/** Set by `npm test`: a folder that is there as long as the run. Absent when a file is run alone. */
const folder = process.env['VSITE_TEST_SHARED'];

/**
 * A directory with what takes long to make and may be the same for all tests of a run, such as RSA keys: made by who
 * needs it first. `undefined`: a file is run alone, and makes its own.
 */
export async function shared(
  name: string,
  make: (directory: string) => Promise<unknown>,
): Promise<string | undefined> {
  if (folder === undefined) return undefined;
  const directory = join(folder, name);
  if (existsSync(directory)) return directory;
  const draft = await mkdtemp(`${directory}-`);
  await make(draft);
  // another test may have been faster
  await rename(draft, directory).catch(() => rm(draft, { recursive: true }));
  return directory;
}

/** Fills a directory of its own with what is {@link shared}. */
export async function copyOfShared(
  name: string,
  directory: string,
  make: (directory: string) => Promise<unknown>,
): Promise<void> {
  const from = await shared(name, make);
  if (from === undefined) await make(directory);
  else await cp(from, directory, { recursive: true });
}

/** Certificates and users of an installation: the same in each, but for those that have one of their own. */
export async function provideIdentities(layout: Layout): Promise<void> {
  await copyOfShared('installation', layout.state, async (state) => {
    await writeIdentities(layoutOf(state));
    await chmod(state, 0o711); // containers have to get through
  });
}
