import { execFile } from 'node:child_process';
import { link, rename, rm, stat } from 'node:fs/promises';
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

/** @throws what else than its absence there is to say: what cannot be looked at may be there. */
export async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return false;
    throw error;
  }
}

/** Of one file the same, by a hard link: what appears there meanwhile is not replaced. */
export async function once(target: string, make: (draft: string) => Promise<void>): Promise<void> {
  if (await exists(target)) return;
  const draft = `${target}.new`;
  await rm(draft, { force: true });
  try {
    await make(draft);
    await link(draft, target).catch((error: unknown) => {
      if (!hasCode(error, 'EEXIST')) throw error;
    });
  } finally {
    await rm(draft, { force: true });
  }
}

const hasCode = (error: unknown, code: string): boolean =>
  error instanceof Error && 'code' in error && error.code === code;
