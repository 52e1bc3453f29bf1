import { execFile } from 'node:child_process';
import { rename, rm, stat } from 'node:fs/promises';
import { promisify } from 'node:util';
import { errorText } from '#kernel/errors.js';

const run = promisify(execFile);
const toolTimeoutMs = 120_000;

/** Complete or not there: what was cut off by a crash is made again, what fails leaves nothing. */
export async function whole(
  target: string,
  make: (draft: string) => Promise<void>,
): Promise<string> {
  if (await exists(target)) return target;
  const draft = `${target}.new`;
  await rm(draft, { recursive: true, force: true });
  try {
    await make(draft);
    await rename(draft, target);
  } catch (error) {
    await rm(draft, { recursive: true, force: true });
    throw error;
  }
  return target;
}

/** @throws what the tool said, in English: the reason is looked for in it. Paths of the host stay here. */
export async function runTool(program: string, args: readonly string[]): Promise<void> {
  const env = { ...process.env, LC_ALL: 'C' };
  try {
    await run(program, args, { timeout: toolTimeoutMs, env });
  } catch (cause) {
    const { stderr = '' } = cause as { stderr?: string };
    const said = stderr.trim();
    throw new Error(said === '' ? `${program}: ${errorText(cause)}` : said, { cause });
  }
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
