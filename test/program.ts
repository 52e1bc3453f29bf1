import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { projectRoot } from '#kernel/project-root.js';

const compiled = import.meta.filename.endsWith('.js');

/** What Node needs to run files of this project as it runs this one: compiled (`npm test`), or by tsx. */
export const nodeFlags: readonly string[] = compiled
  ? ['--enable-source-maps']
  : ['--conditions=development', '--import', import.meta.resolve('tsx')];

/** A program of the project, compiled or not as this file is. @param path its source's, in the project */
export function program(path: `${string}.ts`): string {
  const file = inProject(path);
  return compiled ? join(projectRoot, 'dist', path.replace(/ts$/, 'js')) : file;
}

/** A file of the project that is no module. @throws where there is none */
export function inProject(path: string): string {
  const file = join(projectRoot, path);
  if (!existsSync(file)) throw new Error(`${file} does not exist`);
  return file;
}
