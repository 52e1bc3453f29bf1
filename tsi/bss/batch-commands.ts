import type { ChildProcess } from 'node:child_process';
import type { Readable } from 'node:stream';
import { errorText } from '#kernel/errors.js';
import { TsiError } from '../protocol/error.js';
import type { Host, Owner } from './bss.js';

/** How a program of a batch system went. */
export type Outcome = {
  /** `killed` when it took too long or printed too much. */
  readonly status: number | 'killed';
  readonly stdout: string;
  readonly stderr: string;
};

/** For what is read: messages and dates that are the same everywhere. */
export const cLocale = ['LC_ALL=C'];

type Properties = ReadonlyMap<string, string>;

/** Longest listing that is read: some 200 000 jobs. */
const maxOutputBytes = 8 * 1024 * 1024;
const maxWordsLength = 1_000;
const defaultTimeoutSeconds = 60;

/**
 * The programs of a batch system, by the names that their keys in `tsi.properties` have (§1.10):
 * `tsi.<name>_cmd`. They are run without a shell, in a clean environment, with a deadline.
 */
export class BatchCommands<Name extends string> {
  readonly #host: Host;
  readonly #lines: Readonly<Record<Name, readonly string[]>>;
  readonly #environment: readonly string[];
  readonly timeoutMs: number;

  /** @param environment `NAME=value` beyond what the owner's programs always have */
  constructor(
    host: Host,
    properties: Properties,
    defaults: Readonly<Record<Name, string>>,
    environment: readonly string[] = [],
  ) {
    this.#host = host;
    this.#environment = environment;
    const entries = Object.entries<string>(defaults).map(([name, line]) => {
      const key = `tsi.${name}_cmd`;
      return [name, splitCommand(key, properties.get(key) ?? line)];
    });
    this.#lines = Object.fromEntries(entries) as Record<Name, readonly string[]>;
    this.timeoutMs = 1_000 * seconds('tsi.bss_timeout', properties.get('tsi.bss_timeout'));
  }

  /** The whole line. `%s` in it stands for the first argument, as in `tsi.abort_cmd` of stock TSIs. */
  line(name: Name, args: readonly string[], environment: readonly string[] = []): string[] {
    const line = this.#lines[name];
    const [first, ...rest] = args;
    const filled =
      first !== undefined && line.some((word) => word.includes('%s'))
        ? [...line.map((word) => word.replace('%s', () => first)), ...rest]
        : [...line, ...args];
    return ['env', ...environment, ...this.#environment, ...filled];
  }

  /** What it printed; what it said of its failure is the error. @throws `TSI_FAILED` */
  async read(owner: Owner, name: Name, ...args: readonly string[]): Promise<string> {
    const outcome = await this.run(owner, this.line(name, args, cLocale));
    if (outcome.status === 0) return outcome.stdout;
    throw new TsiError('TSI_FAILED', words(outcome), { command: name });
  }

  /** Also for what fails. @throws `TSI_FAILED` if it cannot be started at all */
  async run(
    owner: Owner,
    line: readonly string[],
    { cwd = '/', umask = 0o077 }: { readonly cwd?: string; readonly umask?: number } = {},
  ): Promise<Outcome> {
    const shell = ['/bin/sh', '-c', 'umask "$1"; shift; exec "$@"', 'sh', umask.toString(8)];
    const [file = '', ...args] = [...shell, ...line];
    const child = this.#host.spawn(owner, file, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    try {
      return await this.#collect(child);
    } catch (error) {
      throw new TsiError('TSI_FAILED', errorText(error), { file: line[0] }, { cause: error });
    }
  }

  #collect(child: ChildProcess): Promise<Outcome> {
    let killed = '';
    const kill = (reason: string): void => {
      killed ||= reason;
      killGroup(child);
    };
    const stdout = collect(child.stdout, () => kill(`prints more than ${maxOutputBytes} bytes`));
    const stderr = collect(child.stderr, () => kill(`prints more than ${maxOutputBytes} bytes`));
    const late = `does not answer within ${this.timeoutMs / 1_000} s`;
    const timer = setTimeout(() => kill(late), this.timeoutMs);
    return new Promise<Outcome>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) =>
        resolve(
          killed
            ? { status: 'killed', stdout: '', stderr: `the batch system ${killed}` }
            : { status: code ?? 128, stdout: stdout(), stderr: stderr() || (signal ?? '') },
        ),
      );
    }).finally(() => clearTimeout(timer));
  }
}

/** What a program said of its failure, in one piece. */
export function words({ status, stdout, stderr }: Outcome): string {
  const said = (stderr.trim() || stdout.trim()).slice(0, maxWordsLength);
  return said || `the batch system's program ends with ${status}`;
}

/** Words between blanks; quotes and backslashes as in a shell, and nothing else of it. */
export function splitCommand(key: string, line: string): string[] {
  const found: string[] = [];
  const pattern = /\s*((?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+)(?=\s|$)/gy;
  let end = 0;
  for (const match of line.trim().matchAll(pattern)) {
    found.push(unquote(match[1] ?? ''));
    end = match.index + match[0].length;
  }
  if (found.length > 0 && end === line.trim().length) return found;
  throw new TypeError(`${key} is no command line: ${line}`);
}

function unquote(word: string): string {
  return word.replaceAll(
    /\\(.)|"((?:[^"\\]|\\.)*)"|'([^']*)'/g,
    (_, escaped?: string, double?: string, single?: string) =>
      escaped ?? double?.replaceAll(/\\(["\\$`])/g, '$1') ?? single ?? '',
  );
}

function collect(stream: Readable | null, tooMuch: () => void): () => string {
  const chunks: Buffer[] = [];
  let size = 0;
  stream?.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size <= maxOutputBytes) chunks.push(chunk);
    else tooMuch();
  });
  return () => Buffer.concat(chunks).toString();
}

function killGroup({ pid }: ChildProcess): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // it has ended meanwhile
  }
}

function seconds(key: string, text = String(defaultTimeoutSeconds)): number {
  const value = Number(text);
  if (value > 0 && value <= 3_600) return value;
  throw new TypeError(`${key} is not a number of seconds up to 3600: ${text}`);
}
