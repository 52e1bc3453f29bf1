import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, existsSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';

type Helper = ChildProcessByStdio<Writable, Readable, null>;

/** By Linux' random.c: mixes the pool, and so what was written to it, into the generator now. */
const reseedRequest = 0x5207;
const clockSettime: Readonly<Record<string, number>> = { x64: 227, arm64: 112 };
export const perl = '/usr/bin/perl';
/** Else it complains, on a console that an emulated machine writes slowly, where that of the agent is not installed. */
export const perlEnvironment = { ...process.env, LC_ALL: 'C' };
const answerMs = 8_000;

/** Each line of its input: whether to reseed, then the seconds and nanoseconds that the clock is set to. */
const script = `$| = 1;
while (<STDIN>) {
  my ($reseed, $seconds, $nanoseconds) = split;
  my $time = pack("q<q<", $seconds, $nanoseconds);
  my $done = eval {
    open(my $random, "+<", "/dev/urandom") or die "random: $!\\n";
    !$reseed or ioctl($random, ${reseedRequest}, 0) or die "reseed: $!\\n";
    syscall(${clockSettime[process.arch] ?? -1}, 0, $time) == 0 or die "clock: $!\\n";
  };
  print $done ? "done\\n" : $@;
}`;

/** Whether this system has perl, as every Debian has, and we know its calls. */
export function canCallKernel(): boolean {
  return process.arch in clockSettime && isExecutable(perl);
}

/** Looked for first: an error that is thrown costs an emulated machine more than two questions. */
export function isExecutable(path: string): boolean {
  if (!existsSync(path)) return false;
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * Calls of the kernel that are unknown to node and to most programs, done by perl. Its process waits for the
 * next call: starting one takes an emulated machine a third of a second.
 */
export class KernelCalls implements Disposable {
  #perl: Helper | undefined;

  /** @throws what the kernel says */
  async setClock(timeMs: number, { reseed }: { readonly reseed: boolean }): Promise<void> {
    const helper = (this.#perl ??= this.#start());
    const seconds = Math.floor(timeMs / 1_000);
    const nanoseconds = Math.round((timeMs - seconds * 1_000) * 1e6);
    helper.stdin.write(`${reseed ? 1 : 0} ${seconds} ${nanoseconds}\n`);
    const answer = await firstLine(helper).catch((error: unknown) => {
      this[Symbol.dispose]();
      throw error;
    });
    if (answer !== 'done') throw new Error(answer);
  }

  [Symbol.dispose](): void {
    this.#perl?.kill('SIGKILL');
    this.#perl = undefined;
  }

  #start(): Helper {
    const helper = spawn(perl, ['-e', script], {
      cwd: '/',
      env: perlEnvironment,
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const forget = (): void => {
      if (this.#perl === helper) this.#perl = undefined;
    };
    helper.once('error', forget).once('exit', forget);
    helper.stdin.on('error', forget);
    return helper;
  }
}

/** What it says next. @throws when it ends or is silent instead */
async function firstLine(helper: Helper): Promise<string> {
  const late = AbortSignal.timeout(answerMs);
  const [line] = (await Promise.race([
    once(helper.stdout, 'data', { signal: late }),
    once(helper, 'exit').then(() => Promise.reject(new Error('perl has ended'))),
  ])) as [Buffer];
  return line.toString().trim();
}
