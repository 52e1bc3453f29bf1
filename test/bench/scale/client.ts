import { fork } from 'node:child_process';
import { once } from 'node:events';
import { setPriority } from 'node:os';
import { nodeFlags, program } from '../../program.js';

/** What is asked for again and again, one after the other. */
export type Asking = {
  readonly url: string;
  readonly ca: string;
  readonly auth: { readonly user: string; readonly password: string };
  readonly paths: readonly string[];
  readonly forMs: number;
  readonly betweenMs: number;
};
export type Asked = { readonly times: readonly number[] };

/** In a process of its own: what else the bench does would be in the times. @returns ms of each answer */
export async function ask(asking: Asking): Promise<readonly number[]> {
  const child = fork(program('test/bench/scale/client-process.ts'), [], {
    execArgv: [...nodeFlags],
  });
  try {
    if (child.pid !== undefined) setPriority(child.pid, -10);
  } catch {
    // only root may
  }
  const failed = once(child, 'exit').then(([code]) => {
    throw new Error(`the client has ended with ${String(code)}`);
  });
  child.send(asking);
  const [asked] = (await Promise.race([once(child, 'message'), failed])) as [Asked];
  return asked.times;
}
