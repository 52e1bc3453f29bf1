import { existsSync } from 'node:fs';
import { chmod, cp, mkdtemp, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { writeIdentities } from '#cli/quickstart/configuration.js';
import { layoutOf, type Layout } from '#cli/quickstart/layout.js';

/** Set by `npm test`: a folder that is there as long as the run. Absent when a file is run alone. */
const folder = process.env['VSITE_TEST_SHARED'];

/**
 * Fills a directory with what takes long to make and may be the same for all tests of a run, such as RSA keys:
 * made by who needs it first, copied by the others.
 */
export async function copyOfShared(
  name: string,
  directory: string,
  make: (directory: string) => Promise<unknown>,
): Promise<void> {
  if (folder === undefined) {
    await make(directory);
    return;
  }
  const shared = join(folder, name);
  if (!existsSync(shared)) {
    const draft = await mkdtemp(`${shared}-`);
    await make(draft);
    // another test may have been faster
    await rename(draft, shared).catch(() => rm(draft, { recursive: true }));
  }
  await cp(shared, directory, { recursive: true });
}

/** Certificates and users of an installation: the same in each, but for those that have one of their own. */
export async function provideIdentities(layout: Layout): Promise<void> {
  await copyOfShared('installation', layout.state, async (state) => {
    await writeIdentities(layoutOf(state));
    await chmod(state, 0o711); // containers have to get through
  });
}
