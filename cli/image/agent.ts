import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'esbuild';
import { projectRoot } from '#kernel/project-root.js';
import { ImageBuildError } from './run.js';

/** The TSI agent, or another program, as one CommonJS file that needs nothing but Node. */
export async function bundleAgent(
  entry = join(projectRoot, 'tsi', 'agent', 'main.ts'),
): Promise<Uint8Array> {
  try {
    const { version } = JSON.parse(await readFile(join(projectRoot, 'package.json'), 'utf8')) as {
      version: string; // npm has checked our own package.json
    };
    const { outputFiles } = await build({
      entryPoints: [entry],
      absWorkingDir: projectRoot,
      bundle: true,
      write: false,
      platform: 'node',
      target: 'node20',
      format: 'cjs',
      conditions: ['development'],
      define: { AGENT_VERSION: JSON.stringify(version) },
      // the guest parses this under emulation: every byte counts
      minify: true,
      keepNames: true,
      logLevel: 'silent',
    });
    const [file] = outputFiles;
    if (!file) throw new Error('no output');
    return file.contents;
  } catch (cause) {
    throw new ImageBuildError('bundle of the agent', cause);
  }
}
