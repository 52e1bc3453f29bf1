import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { errorText, GridError } from '#kernel/errors.js';

/** The demo images could not be built; the message says which step, and what the tool said. */
export class ImageBuildError extends GridError<'IMAGE_INVALID'> {
  constructor(step: string, cause: unknown) {
    super('IMAGE_INVALID', `${step}: ${reason(cause)}`, { step }, { cause });
  }
}

function reason(cause: unknown): string {
  const said = (cause as { stderr?: unknown } | undefined)?.stderr;
  const text = typeof said === 'string' && said.trim() ? said.trim() : errorText(cause);
  return text.split('\n').slice(-5).join(' | ').slice(-1_000);
}

const execute = promisify(execFile);

/** Runs a tool of the host. @returns its output. @throws {@link ImageBuildError} with its last lines */
export async function run(
  command: string,
  args: readonly string[],
  options: { cwd?: string; timeoutMs?: number } = {},
): Promise<string> {
  const { timeoutMs: timeout = 300_000, ...rest } = options;
  const env = { ...process.env, LC_ALL: 'C' };
  try {
    const { stdout } = await execute(command, args, {
      ...rest,
      env,
      timeout,
      maxBuffer: 64 * 1024 * 1024,
    });
    return stdout;
  } catch (cause) {
    throw new ImageBuildError(`${command} ${args.join(' ')}`.slice(0, 200), cause);
  }
}
