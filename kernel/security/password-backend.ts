import { spawn } from 'node:child_process';
import { once } from 'node:events';
import pLimit from 'p-limit';
import { z } from 'zod';
import { errorText, GridError } from '#kernel/errors.js';
import { normalizeDn } from './dn.js';
import type { Identity } from './identity.js';

/**
 * Where passwords are checked of users who have none in the users file: what PAM is for UNICORE.
 * @returns `undefined`: the user is unknown there, or the password is wrong
 * @throws `SITE_UNAVAILABLE` nobody can tell
 */
export type PasswordBackend = (name: string, password: string) => Promise<Identity | undefined>;

/**
 * A program that is given the user's name and password, a line each, and says by its exit status whether they
 * belong together: the protocol of Apache's `mod_authnz_external`, which `pwauth` speaks for PAM.
 */
export const PasswordCommand = z.strictObject({
  /** Program and arguments; no shell reads them. */
  command: z.array(z.string().min(1)).min(1),
  /** `${user}` stands for the user's name. */
  dnTemplate: z.string().default('CN=${user},OU=pam-local-users'),
  timeoutSeconds: z.number().positive().max(60).default(10),
});
export type PasswordCommand = z.output<typeof PasswordCommand>;

const userName = /^[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}$/;
const oneLine = /^[^\0\r\n]{1,1024}$/;
const atOnce = 4;
const mostWaiting = 64;

export function createPasswordCommand({
  command: [program = '', ...args],
  dnTemplate,
  timeoutSeconds,
}: PasswordCommand): PasswordBackend {
  const limit = pLimit(atOnce);
  return async (name, password) => {
    // what cannot be said in two lines is nobody's password
    if (!userName.test(name) || !oneLine.test(password)) return undefined;
    if (limit.pendingCount >= mostWaiting)
      throw new GridError('SITE_UNAVAILABLE', 'too many logins at once, try again');
    const good = await limit(() => run(program, args, `${name}\n${password}\n`, timeoutSeconds));
    if (!good) return undefined;
    const dn = normalizeDn(dnTemplate.replaceAll('${user}', () => name));
    return { dn, method: 'PAM', claims: { role: 'user', login: name } };
  };
}

async function run(
  program: string,
  args: readonly string[],
  input: string,
  timeoutSeconds: number,
): Promise<boolean> {
  const child = spawn(program, args, {
    stdio: ['pipe', 'ignore', 'ignore'],
    timeout: timeoutSeconds * 1_000,
    killSignal: 'SIGKILL',
  });
  // it may have made up its mind without reading
  child.stdin.on('error', () => undefined).end(input);
  try {
    const [code] = (await once(child, 'close')) as [number | null];
    if (code !== null) return code === 0;
  } catch (cause) {
    throw unavailable(errorText(cause), cause);
  }
  throw unavailable('it took too long');
}

function unavailable(reason: string, cause?: unknown): GridError {
  const text = `the program that checks passwords does not answer: ${reason}`;
  return new GridError('SITE_UNAVAILABLE', text, {}, { cause });
}
