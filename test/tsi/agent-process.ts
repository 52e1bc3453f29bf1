import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { rm } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { build } from 'esbuild';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import type { Scope } from '#kernel/scope.js';
import { AgentLink } from '#xnjs/tsi/agent-link.js';
import type { AgentLinkOptions } from '#xnjs/tsi/agent-link-options.js';
import { createTsi, type TsiClient, type TsiOptions } from '#xnjs/tsi/tsi-client.js';
import { shared } from '../shared-files.js';

export const isRoot = process.getuid?.() === 0;
/** Whom the commands of the tests run as; as an ordinary user an agent takes any name for its own. */
export const alice = { login: isRoot ? 'nobody' : userInfo().username, groups: 'NONE' };

/** Waits for a condition, with a deadline that fails the test. */
export async function until<T>(
  what: string,
  condition: () => T | Promise<T>,
  ms = 20_000,
): Promise<NonNullable<Awaited<T>>> {
  for (const end = Date.now() + ms; ;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await sleep(10);
  }
}

/** A directory of its own that whoever runs the jobs may enter and write to. */
export function scratch(scope: Scope, uid?: number): string {
  const dir = mkdtempSync(join(tmpdir(), 'vsite-tsi-'));
  chmodSync(dir, 0o755);
  if (isRoot && uid !== undefined) chownSync(dir, uid, uid);
  scope.defer(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

export const nobodyId = 65_534;

const bundleName = 'agent.cjs';
let bundle: Promise<string> | undefined;

/** The agent as it goes into images: one file. */
export function bundled(): Promise<string> {
  bundle ??= (async () => {
    const directory = (await shared('agent', makeBundle)) ?? (await makeOwnBundle());
    return join(directory, bundleName);
  })();
  return bundle;
}

async function makeOwnBundle(): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'vsite-agent-'));
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }));
  await makeBundle(directory);
  return directory;
}

async function makeBundle(directory: string): Promise<void> {
  await build({
    entryPoints: ['tsi/agent/main.ts'],
    bundle: true,
    platform: 'node',
    target: 'node18',
    format: 'cjs',
    conditions: ['development'],
    outfile: join(directory, bundleName),
    logLevel: 'warning',
  });
  chmodSync(directory, 0o755);
}

export type AgentProcess = {
  readonly dir: string;
  readonly socket: string;
  readonly child: ChildProcess;
  /** What it has logged. */
  readonly log: () => string;
  /** The port of its main. */
  readonly port: () => Promise<number>;
};

type AgentOptions = {
  readonly properties?: readonly string[];
  /** Run by an account that is not root. */
  readonly ordinary?: boolean;
  readonly dir?: string;
};

export async function startAgent(
  scope: Scope,
  { properties = [], ordinary = false, dir }: AgentOptions = {},
): Promise<AgentProcess> {
  dir ??= scratch(scope, ordinary ? nobodyId : undefined);
  const socket = join(dir, 'link.sock');
  const file = join(dir, 'tsi.properties');
  const own = properties.some((line) => line.startsWith('tsi.link'))
    ? []
    : [`tsi.link=unix:${socket}`];
  writeFileSync(file, [...own, `tsi.state_dir=${join(dir, 'state')}`, ...properties].join('\n'));
  const command = [process.execPath, await bundled(), file];
  const drop =
    ordinary && isRoot ? ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'] : [];
  const [program = '', ...args] = [...drop, ...command];
  const child = spawn(program, args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: agentEnvironment(),
  });
  let text = '';
  child.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()));
  scope.defer(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  });
  await until('the agent starts', () => {
    if (child.exitCode !== null) throw new Error(`the agent ended: ${text}`);
    return text.includes('agent started') && (own.length === 0 || existsSync(socket));
  });
  const port = (): Promise<number> =>
    until('the main listens', () => Number(/"port":(\d+)/.exec(text)?.[1] ?? 0));
  return { dir, socket, child, log: () => text, port };
}

/** A secret of the agent, which no job may see. */
function agentEnvironment(): NodeJS.ProcessEnv {
  return { PATH: process.env['PATH'], HOME: '/', AGENT_SECRET: 'x' };
}

export async function dialUnix(path: string): Promise<Socket> {
  const socket = connect(path);
  await once(socket, 'connect');
  return socket;
}

export async function linkTo(
  scope: Scope,
  socket: string,
  options: Partial<Omit<AgentLinkOptions, 'dial'>> = {},
): Promise<AgentLink> {
  const link = new AgentLink({
    name: 'test',
    dial: () => dialUnix(socket),
    heartbeatMs: 1_000,
    clock: systemClock,
    log: silentLog,
    ...options,
  });
  scope.use(link);
  await until('the link is up', () => link.state === 'up');
  return link;
}

export async function clientOf(
  scope: Scope,
  agent: AgentProcess,
  options: Partial<TsiOptions> = {},
): Promise<TsiClient> {
  const link = await linkTo(scope, agent.socket);
  return scope.use(createTsi(link.transport(), { clock: systemClock, log: silentLog, ...options }));
}

/** Numbers of the processes whose command line holds the text. */
export async function processesWith(text: string): Promise<number[]> {
  const { readdir } = await import('node:fs/promises');
  return (await readdir('/proc'))
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(text);
      } catch {
        return false;
      }
    })
    .map(Number);
}
