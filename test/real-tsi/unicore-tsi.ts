import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Scope } from '#kernel/scope.js';
import { isRoot, until } from '../tsi/agent-process.js';

/** Checkouts of github.com/UNICORE-EU/tsi, separated by colons. */
export const sourcesVariable = 'VSITE_TSI_SOURCES';

const nobody = ['--reuid=65534', '--regid=65534', '--clear-groups'];

/** A checkout, and the version that its Makefile would build. */
export type TsiSources = { readonly directory: string; readonly version: string };

/** Those that the environment names. @throws for a directory that holds none */
export function findSources(): TsiSources[] {
  const directories = (process.env[sourcesVariable] ?? '').split(':').filter(Boolean);
  return directories.map((directory) => {
    const [, version] =
      /^VERSION=(\d[\w.]*)/m.exec(readFileSync(join(directory, 'Makefile'), 'utf8')) ?? [];
    if (version === undefined) throw new Error(`${directory} holds no sources of a UNICORE TSI`);
    return { directory, version };
  });
}

export type UnicoreTsiOptions = {
  readonly properties?: readonly string[];
  /** Run by an account that is not root, which switches to no other. */
  readonly ordinary?: boolean;
};

/** The original as a process of its own, without a batch system. */
export class UnicoreTsi {
  readonly port: number;
  readonly #launch: () => ChildProcess;
  #child: ChildProcess | undefined;
  #log = '';

  private constructor(port: number, launch: () => ChildProcess) {
    this.port = port;
    this.#launch = launch;
  }

  /** What it has logged. */
  get log(): string {
    return this.#log;
  }

  static async start(
    scope: Scope,
    { directory, version }: TsiSources,
    { properties = [], ordinary = false }: UnicoreTsiOptions = {},
  ): Promise<UnicoreTsi> {
    const home = mkdtempSync(join(tmpdir(), 'vsite-unicore-tsi-'));
    scope.defer(() => rmSync(home, { recursive: true, force: true }));
    chmodSync(home, 0o755);
    const lib = join(home, 'lib');
    cpSync(join(directory, 'lib'), lib, { recursive: true });
    const main = join(lib, 'TSI.py');
    // as its Makefile does
    writeFileSync(main, readFileSync(main, 'utf8').replaceAll('__VERSION__', version));
    const port = await freePort();
    const file = join(home, 'tsi.properties');
    writeFileSync(file, [...common(port, ordinary), ...properties, ''].join('\n'));
    const launch = (): ChildProcess =>
      spawn('env', [...findPython(ordinary), '-u', main, file], {
        // a session of its own: what it forks can be ended with it
        detached: true,
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { PATH: process.env['PATH'], PYTHONPATH: lib, PYTHONDONTWRITEBYTECODE: '1' },
      });
    const tsi = new UnicoreTsi(port, launch);
    scope.defer(() => tsi.kill());
    await tsi.start();
    return tsi;
  }

  /** Once more, at the same port. */
  async start(): Promise<void> {
    const child = this.#launch();
    this.#child = child;
    for (const stream of [child.stdout, child.stderr])
      stream?.on('data', (chunk: Buffer) => (this.#log += chunk.toString()));
    await until('the TSI listens', () => {
      if (child.exitCode !== null) throw new Error(`the TSI ended: ${this.log}`);
      return listens(this.port);
    });
  }

  /** With its workers; jobs run on in sessions of their own. */
  async kill(): Promise<void> {
    await this.#end((pid) => process.kill(-pid, 'SIGKILL'));
  }

  /** Its workers live on. */
  async killMain(): Promise<void> {
    await this.#end((pid) => process.kill(pid, 'SIGKILL'));
  }

  /** @returns how many there were */
  killWorkers(): number {
    const workers = childrenOf(this.#child?.pid ?? 0);
    for (const pid of workers) process.kill(pid, 'SIGKILL');
    return workers.length;
  }

  async #end(signal: (pid: number) => void): Promise<void> {
    if (this.#child?.pid === undefined) return;
    const { pid, exitCode, signalCode } = this.#child;
    try {
      signal(pid);
    } catch {
      return; // all of it has ended
    }
    if (exitCode === null && signalCode === null) await once(this.#child, 'exit');
  }
}

function childrenOf(pid: number): number[] {
  const path = `/proc/${pid}/task/${pid}/children`;
  return existsSync(path) ? readFileSync(path, 'utf8').split(' ').filter(Boolean).map(Number) : [];
}

/**
 * The command that runs Python as the account in question: what is first in the PATH may be root's alone.
 * @throws when there is none
 */
export function findPython(ordinary: boolean): readonly string[] {
  const drop = ordinary && isRoot ? ['setpriv', ...nobody] : [];
  for (const python of ['python3', '/usr/bin/python3']) {
    try {
      execFileSync('env', [...drop, python, '--version'], { stdio: 'ignore' });
      return [...drop, python];
    } catch {
      // the next, then
    }
  }
  throw new Error(`no python3 that ${ordinary ? 'an ordinary user' : 'root'} can run`);
}

/** In the spelling of all versions; each takes its own. */
function common(port: number, ordinary: boolean): string[] {
  return [
    `tsi.switch_uid=${ordinary ? 0 : 1}`,
    'tsi.my_addr=127.0.0.1',
    `tsi.my_port=${port}`,
    'tsi.unicorex_machine=127.0.0.1',
    'tsi.njs_machine=127.0.0.1',
    'tsi.use_login_shell=0',
  ];
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Asked of the kernel: a connection that says nothing would hold the TSI up, or with TLS end it. */
function listens(port: number): boolean {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  const sockets = ['/proc/net/tcp', '/proc/net/tcp6'].map((path) => readFileSync(path, 'utf8'));
  return sockets.some((text) => new RegExp(`:${hex} [0-9A-F:]+ 0A `).test(text));
}
