import { execFile } from 'node:child_process';
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { MachineClock } from '../protocol/machine-clock.js';
import type { MachineIdentity } from '../protocol/machine-identity.js';
import { canCallKernel, isExecutable, KernelCalls } from './kernel-calls.js';
import type { Settings } from './settings.js';

const run = promisify(execFile);
const options = { timeout: 8_000 };
/** A clock that is nearer than this is left alone: setting it costs a process. */
const clockToleranceMs = 100;
/** What an image may bring along for what only its creator knows of. */
const hook = '/usr/lib/vsite/identity';

/** What this agent can do of a machine's identity; the server asks before it gives anybody such a machine. */
export function identityFacts(settings: Settings): { identity: boolean; copies: boolean } {
  const identity = settings.identity && process.geteuid?.() === 0;
  return { identity, copies: identity && canCallKernel() };
}

/** From a rehearsal to what was rehearsed. */
const kernel = new KernelCalls();
/** Whose host keys this machine has, as far as we made them. */
let keysOf: string | undefined;

/**
 * Makes this machine the one that it is told to be. May be repeated. Small files are written without threads
 * in between, which cost an emulated machine more than the files.
 * @param receivedMs `performance.now()` when the message had come
 * @param root of the files, for tests
 * @throws if any of it cannot be done: then the machine is nobody's
 */
export async function assumeIdentity(
  identity: MachineIdentity,
  receivedMs: number,
  root = '/',
): Promise<void> {
  const { hostName, isCopy, isRehearsal } = identity;
  await setClock(identity, receivedMs, isCopy);
  const former = hostname();
  await setHostName(hostName);
  rewriteFiles(identity, former, root);
  if (isCopy || keysOf !== hostName) await newHostKeys(root);
  keysOf = hostName;
  if (isExecutable(hook))
    await run(hook, [], {
      ...options,
      env: { ...process.env, VSITE_NAME: hostName, VSITE_MACHINE_ID: identity.machineId },
    });
  if (!isRehearsal) kernel[Symbol.dispose]();
}

/** The same, of a machine that stays the one that it is. As far as it can: without perl to the second. */
export async function catchUp(clock: MachineClock, receivedMs: number): Promise<void> {
  await setClock(clock, receivedMs, canCallKernel());
  kernel[Symbol.dispose]();
}

/** @param isRepeated its random generator is as it was before: it takes up the seed at once */
async function setClock(
  { timeMs, seed }: MachineClock,
  receivedMs: number,
  isRepeated: boolean,
): Promise<void> {
  writeFileSync('/dev/urandom', Buffer.from(seed, 'base64'));
  const nowMs = (): number => timeMs + performance.now() - receivedMs;
  const isLate = Math.abs(Date.now() - nowMs()) > clockToleranceMs;
  if (isRepeated || (isLate && canCallKernel()))
    await kernel.setClock(nowMs(), { reseed: isRepeated });
  else if (isLate) await run('date', ['-s', `@${Math.round(nowMs() / 1_000)}`], options);
}

async function setHostName(name: string): Promise<void> {
  try {
    writeFileSync('/proc/sys/kernel/hostname', name);
  } catch {
    await run('hostname', [name], options); // a container sees these files read-only
  }
}

function rewriteFiles(
  { hostName, machineId }: MachineIdentity,
  former: string,
  root: string,
): void {
  const at = (path: string): string => join(root, path);
  put(at('/etc/hostname'), `${hostName}\n`);
  put(at('/etc/machine-id'), `${machineId}\n`);
  const copy = at('/var/lib/dbus/machine-id'); // most systems link it to the other
  if (existsSync(copy)) put(copy, `${machineId}\n`);
  rmSync(at('/var/lib/systemd/random-seed'), { force: true });
  if (former === '' || !existsSync(at('/etc/hosts'))) return;
  const words = readFileSync(at('/etc/hosts'), 'utf8').split(/(\s+)/);
  if (words.includes(former))
    put(at('/etc/hosts'), words.map((word) => (word === former ? hostName : word)).join(''));
}

/** For everybody to read, whatever the agent's umask. */
function put(path: string, text: string): void {
  writeFileSync(path, text);
  chmodSync(path, 0o644);
}

/** Those that are made anew where the image has them; what was of another kind is gone for good. */
const keyTypes: ReadonlySet<string> = new Set(['ed25519', 'ecdsa', 'rsa']);

/** Those of ssh, of the kinds that the image has: an emulated machine takes seconds for one of RSA. */
async function newHostKeys(root: string): Promise<void> {
  const folder = join(root, '/etc/ssh');
  const names = existsSync(folder) ? readdirSync(folder) : [];
  const keys = names.flatMap((name) => {
    const [, type] = /^ssh_host_([a-z\d]+)_key(?:\.pub)?$/.exec(name) ?? [];
    return type === undefined ? [] : [{ name, type }];
  });
  if (keys.length === 0) return;
  await Promise.all(keys.map(({ name }) => rm(join(folder, name))));
  const types = new Set(keys.map(({ type }) => type).filter((type) => keyTypes.has(type)));
  const make = async (type: string): Promise<void> => {
    const file = join(folder, `ssh_host_${type}_key`);
    await run('ssh-keygen', ['-q', '-N', '', '-t', type, '-f', file], options);
    chmodSync(`${file}.pub`, 0o644); // as others make it, whatever the agent's umask
  };
  await Promise.all([...types].map(make));
  const pid = await readFile(join(root, '/run/sshd.pid'), 'utf8').catch(() => '');
  if (Number(pid) > 1) process.kill(Number(pid), 'SIGHUP'); // reads them again
}
