import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';

/** An installation of UNICORE's command line client: the folder that has `bin/ucc` and `lib`. */
export const uccVariable = 'VSITE_UCC';
export const ucc = process.env[uccVariable];

/** A virtual machine lives for one command. */
const quick = '-XX:TieredStopAtLevel=1 -XX:+UseSerialGC';

export type Outcome = { readonly exit: number | null; readonly out: string };

/** One command as a person types it. `$name` in a word stands for what is known by that name. */
export type Typed = {
  readonly what: string;
  readonly args: readonly string[];
  /** Default: 0. */
  readonly exit?: number;
  /** What it prints, where it prints anything that counts. */
  readonly out?: RegExp;
  /** Remembers the first group of `out` under this name. */
  readonly keep?: string;
  /** What is then in a file of the client's folder. */
  readonly file?: readonly [name: string, content: RegExp];
};

/** UCC of one person, who has a folder for it: what it would have in a home. */
export class Ucc {
  readonly home: string;
  readonly names: Map<string, string>;
  readonly used = new Set<string>();

  private constructor(home: string, names: Map<string, string>) {
    this.home = home;
    this.names = names;
  }

  static async open(home: string, names: Map<string, string>): Promise<Ucc> {
    await mkdir(join(home, '.ucc'), { recursive: true });
    return new Ucc(home, names);
  }

  start(args: readonly string[]): ChildProcess {
    this.used.add(args[0]!);
    const words = args.map((word) => this.fill(word));
    const env = { ...process.env, HOME: this.home, UCC_OPTS: `-Duser.home=${this.home} ${quick}` };
    return spawn(join(ucc!, 'bin', 'ucc'), words, {
      ...{ cwd: this.home, env, stdio: ['ignore', 'pipe', 'pipe'] },
      detached: true, // a group of its own: the script starts Java, which has to end too
    });
  }

  /** Ends one that would go on. */
  async stop(child: ChildProcess): Promise<void> {
    process.kill(-child.pid!);
    await once(child, 'close');
  }

  /** What it prints, errors too; of a progress bar the last state. */
  async run(args: readonly string[]): Promise<Outcome> {
    const child = this.start(args);
    const [[exit], out, errors] = await Promise.all([
      once(child, 'close') as Promise<[number | null]>,
      text(child.stdout!),
      text(child.stderr!),
    ]);
    return { exit, out: `${out}${errors}`.replaceAll(/^.*\r/gm, '') };
  }

  fill(word: string): string {
    return word.replaceAll(/\$(\w+)/g, (whole, name: string) => this.names.get(name) ?? whole);
  }
}
