import { access, constants, readFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { inUsr } from './packages.js';
import { ImageBuildError, run } from './run.js';

/** Programs of the host that go into an image: path in the image to file on the host. */
export type Programs = ReadonlyMap<string, string>;

/** The named programs, Node as `/usr/bin/node` if it is wanted, and every shared library they need. */
export async function findPrograms(
  names: readonly string[],
  { node }: { readonly node: boolean },
): Promise<Programs> {
  const found = new Map(node ? [['/usr/bin/node', process.execPath]] : []);
  for (const name of names) found.set(`/usr/bin/${name}`, await which(name));
  for (const path of [...found.values()])
    for (const library of await libraries(path)) found.set(inUsr(library), library);
  return found;
}

async function which(name: string): Promise<string> {
  for (const folder of (process.env['PATH'] ?? '').split(delimiter).concat('/usr/sbin', '/sbin')) {
    const path = join(folder, name);
    if (
      await access(path, constants.X_OK).then(
        () => true,
        () => false,
      )
    )
      return path;
  }
  throw new ImageBuildError('programs', new Error(`${name} is not installed`));
}

async function libraries(program: string): Promise<string[]> {
  // a static program has no interpreter to ask
  const head = (await readFile(program)).subarray(0, 4096);
  if (!head.includes('ld-linux')) return [];
  const listed = await run('ldd', [program]);
  if (listed.includes('not found'))
    throw new ImageBuildError('programs', new Error(`${program}: a library is missing: ${listed}`));
  return [...listed.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] ?? '');
}
