import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

const run = promisify(execFile);

export type Answer = {
  readonly status: number;
  /** Last segment of the `Location`. */
  readonly made: string;
  readonly body: string;
};

/** One request as a person types it. `$name` in a word stands for what `names` knows. */
export type Request = {
  readonly what: string;
  readonly args: readonly string[];
  readonly status: number;
  /** What the answer looks like. */
  readonly body?: RegExp;
  /** Remembers what was made, or the first group of `body`, under this name. */
  readonly keep?: string;
  /** Asks again until `body` fits. */
  readonly until?: true;
};

const fill = (text: string, names: ReadonlyMap<string, string>): string =>
  text.replaceAll(/\$(\w+)/g, (whole, name: string) => names.get(name) ?? whole);

/** A curl that always has these arguments. */
export function curlWith(always: readonly string[], cwd: string, names: Map<string, string>) {
  const ending = '\n%{http_code} %header{location}';
  return async (args: readonly string[]): Promise<Answer> => {
    const words = args.map((word) => fill(word, names));
    const { stdout } = await run(
      'curl',
      ['--silent', '--show-error', '--max-time', '60', '--write-out', ending, ...always, ...words],
      { cwd, maxBuffer: 64 << 20 },
    );
    const end = stdout.lastIndexOf('\n');
    const [status, location = ''] = stdout.slice(end + 1).split(' ');
    const made = location.split('/').at(-1)!;
    return { status: Number(status), made, body: stdout.slice(0, end) };
  };
}
