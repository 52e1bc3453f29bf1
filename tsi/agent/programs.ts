import { TsiError } from '../protocol/error.js';
import type { User, Users } from './users.js';

const maxOutputBytes = 1024 * 1024;
const programMs = 60_000;

/**
 * Runs a program as the user, without a shell.
 * @returns what it printed. @throws {@link TsiError} `TSI_FAILED` with what it said instead
 */
export function runProgram(
  users: Users,
  user: User,
  file: string,
  args: readonly string[],
): Promise<string> {
  const child = users.spawn(user, file, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const late = setTimeout(() => child.kill('SIGKILL'), programMs);
  const said: Record<'stdout' | 'stderr', Buffer[]> = { stdout: [], stderr: [] };
  let size = 0;
  for (const name of ['stdout', 'stderr'] as const)
    child[name]?.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size > maxOutputBytes) child.kill('SIGKILL');
      else said[name].push(chunk);
    });
  return new Promise<string>((resolve, reject) => {
    const refuse = (reason: string): void =>
      reject(new TsiError('TSI_FAILED', `${file}: ${reason}`, { file }));
    child.once('error', (error) => refuse(error.message));
    child.once('close', (code, signal) => {
      if (code === 0) resolve(Buffer.concat(said.stdout).toString());
      else refuse(Buffer.concat(said.stderr).toString().trim() || `ended with ${code ?? signal}`);
    });
  }).finally(() => clearTimeout(late));
}
