// `vsite serve`, compiled: `node cli/serve-compiled.mjs --config DIR`. See compile.mjs for why.
import { spawnSync } from 'child_process';
import { dirname, join } from 'path';
import { fileURLToPath } from 'url';

const here = dirname(fileURLToPath(import.meta.url));
// in a process of its own: what the compiler needs would stay with the server
const { status } = spawnSync(process.execPath, [join(here, 'compile.mjs')], {
  stdio: ['ignore', 'ignore', 'inherit'],
});
if (status !== 0) {
  console.error('the sources could not be compiled');
  process.exit(1);
}
process.setSourceMapsEnabled(true);
const main = join(here, '..', 'dist', 'cli', 'main.js');
process.argv.splice(1, process.argv.length - 1, main, 'serve', ...process.argv.slice(2));
await import(main);
