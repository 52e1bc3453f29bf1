// Compiles the sources to `dist/` when they are newer, and the tests to `dist/test/`: run by tsx, a server
// takes 45 MB more, and each process of a test half a second to two.
// esbuild, not tsc: it takes a second where tsc takes 17, and types are checked by `npm run check`.
import {
  chmodSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'fs';
import { dirname, join, relative } from 'path';
import { fileURLToPath } from 'url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folders = ['cli', 'gateway', 'imagerepo', 'kernel', 'targetsystem', 'tsi', 'xnjs'];
/** Says what the compiled files were made of. */
const stampName = '.compiled';
/** Beside `dist/`: what is being made. */
const freshName = 'dist-new-';

function sources(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return sources(path);
    return path.endsWith('.ts') && !path.endsWith('.d.ts') ? [path] : [];
  });
}

/** @returns the sources, and a text that changes whenever one of them does, or how they are compiled */
function inspect(project, folders) {
  const files = folders.flatMap((folder) => sources(join(project, folder)));
  const inputs = [...files, fileURLToPath(import.meta.url), join(root, 'package-lock.json')];
  const facts = inputs.map((path) => [path, statSync(path)]);
  const lines = facts.map(([path, { mtimeMs, size }]) => `${path} ${mtimeMs} ${size}`);
  return { files, stamp: lines.join('\n') };
}

function readStamp(dist) {
  try {
    return readFileSync(join(dist, stampName), 'utf8');
  } catch {
    return undefined;
  }
}

/** @returns whether there was anything to do */
export function compile(project = root) {
  return bringUpToDate(project, join(project, 'dist'), folders);
}

/** The tests, and what they test. @returns where they are */
export async function compileTests(project = root) {
  await compile(project);
  const dist = join(project, 'dist', 'test');
  await bringUpToDate(project, dist, ['test']);
  return dist;
}

async function bringUpToDate(project, dist, folders) {
  if (readStamp(dist) === inspect(project, folders).stamp) return false;
  const { lock } = (await import('proper-lockfile')).default;
  // one at a time: of two that read the sources before and after a change, the first could be the last
  const release = await lock(project, {
    lockfilePath: join(project, 'dist-lock'),
    stale: 10_000,
    retries: { retries: 300, minTimeout: 100, maxTimeout: 100 },
  });
  try {
    const { files, stamp } = inspect(project, folders);
    if (readStamp(dist) === stamp) return false;
    await build(project, dist, files, stamp);
    return true;
  } finally {
    await release();
  }
}

/** Aside, and put in place as a whole: whoever is killed meanwhile leaves `dist/` as it was, or none. */
async function build(project, dist, files, stamp) {
  for (const name of readdirSync(project).filter((each) => each.startsWith(freshName)))
    rmSync(join(project, name), { recursive: true, force: true });
  const esbuild = await import('esbuild');
  const fresh = mkdtempSync(join(project, freshName));
  const former = `${fresh}-former`;
  try {
    await esbuild.build({
      entryPoints: files,
      outdir: fresh,
      outbase: join(project, relative(join(project, 'dist'), dist)),
      format: 'esm',
      platform: 'node',
      target: 'node20',
      sourcemap: true,
      sourcesContent: false,
      logLevel: 'silent',
    });
    writeFileSync(join(fresh, stampName), stamp);
    chmodSync(fresh, 0o755); // temporary folders are their maker's alone: servers may run as another user
    if (statSync(dist, { throwIfNoEntry: false })) renameSync(dist, former);
    renameSync(fresh, dist);
    keepTests(former, dist);
  } finally {
    for (const path of [fresh, former]) rmSync(path, { recursive: true, force: true });
  }
}

/** Tests that run now go on when a server that they start is compiled anew. */
function keepTests(former, dist) {
  const tests = join(former, 'test');
  if (statSync(tests, { throwIfNoEntry: false })) renameSync(tests, join(dist, 'test'));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await compile();
