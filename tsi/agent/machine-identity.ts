import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { chmod, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { MachineClock } from '../protocol/machine-clock.js';
import type { MachineIdentity } from '../protocol/machine-identity.js';
import type { Settings } from './settings.js';

const run = promisify(execFile);
const options = { timeout: 8_000 };
/** A clock that is nearer than this is left alone: setting it costs a process. */
const clockToleranceMs = 100;
/** By Linux' random.c: mixes the pool, and so our seed, into the generator now. */
const reseedRequest = 0x5207;
const clockSettime: Readonly<Record<string, number>> = { x64: 227, arm64: 112 };

/** What an image may bring along for what only its creator knows of. */
const hook = '/usr/lib/vsite/identity';
const perl = '/usr/bin/perl';

/** What this agent can do of a machine's identity; the server asks before it gives anybody such a machine. */
export function identityFacts(settings: Settings): { identity: boolean; copies: boolean } {
  const identity = settings.identity && process.geteuid?.() === 0;
  return { identity, copies: identity && canCallKernel() };
}

/**
 * Makes this machine the one that it is told to be. May be repeated.
 * @param receivedMs `performance.now()` when the message had come
 * @param root of the files, for tests
 * @throws if any of it cannot be done: then the machine is nobody's
 */
export async function assumeIdentity(
  identity: MachineIdentity,
  receivedMs: number,
  root = '/',
): Promise<void> {
  await setClock(identity, receivedMs, identity.isCopy);
  const former = hostname();
  await Promise.all([
    setHostName(identity.hostName),
    rewriteFiles(identity, former, root),
    newHostKeys(root),
  ]);
  if (isExecutable(hook))
    await run(hook, [], {
      ...options,
      env: { ...process.env, VSITE_NAME: identity.hostName, VSITE_MACHINE_ID: identity.machineId },
    });
}

/** The same, of a machine that stays the one that it is. As far as it can: without perl to the second. */
export async function catchUp(clock: MachineClock, receivedMs: number): Promise<void> {
  await setClock(clock, receivedMs, canCallKernel());
}

/** @param isRepeated its random generator is as it was before: it takes up the seed at once */
async function setClock(
  { timeMs, seed }: MachineClock,
  receivedMs: number,
  isRepeated: boolean,
): Promise<void> {
  await writeFile('/dev/urandom', Buffer.from(seed, 'base64'));
  const nowMs = (): number => timeMs + performance.now() - receivedMs;
  const isLate = Math.abs(Date.now() - nowMs()) > clockToleranceMs;
  if (isRepeated) await callKernel(`${reseed} ${clock(nowMs())}`);
  else if (isLate && canCallKernel()) await callKernel(clock(nowMs()));
  else if (isLate) await run('date', ['-s', `@${Math.round(nowMs() / 1_000)}`], options);
}

/** Some of the kernel's calls are unknown to node, and to most programs; perl is in every Debian. */
function canCallKernel(): boolean {
  return isExecutable(perl) && process.arch in clockSettime;
}

async function callKernel(script: string): Promise<void> {
  await run(perl, ['-e', script], options);
}

const reseed =
  'open(my $r, "+<", "/dev/urandom") or die "random: $!";' +
  `ioctl($r, ${reseedRequest}, 0) or die "reseed: $!";`;

function clock(timeMs: number): string {
  const [seconds, milliseconds] = [Math.floor(timeMs / 1_000), timeMs % 1_000];
  const time = `my $time = pack("q<q<", ${seconds}, ${Math.round(milliseconds * 1e6)});`;
  return `${time} syscall(${clockSettime[process.arch] ?? -1}, 0, $time) == 0 or die "clock: $!"`;
}

async function setHostName(name: string): Promise<void> {
  try {
    await writeFile('/proc/sys/kernel/hostname', name);
  } catch {
    await run('hostname', [name], options); // a container sees these files read-only
  }
}

async function rewriteFiles(
  { hostName, machineId }: MachineIdentity,
  former: string,
  root: string,
): Promise<void> {
  const at = (path: string): string => join(root, path);
  await put(at('/etc/hostname'), `${hostName}\n`);
  await put(at('/etc/machine-id'), `${machineId}\n`);
  const copy = at('/var/lib/dbus/machine-id'); // most systems link it to the other
  if (await isThere(copy)) await put(copy, `${machineId}\n`);
  await rm(at('/var/lib/systemd/random-seed'), { force: true });
  const hosts = await readFile(at('/etc/hosts'), 'utf8').catch(() => '');
  const words = hosts.split(/(\s+)/);
  if (former !== '' && words.includes(former))
    await put(at('/etc/hosts'), words.map((word) => (word === former ? hostName : word)).join(''));
}

/** For everybody to read, whatever the agent's umask. */
async function put(path: string, text: string): Promise<void> {
  await writeFile(path, text);
  await chmod(path, 0o644);
}

/** Those of ssh, where the image has any. */
async function newHostKeys(root: string): Promise<void> {
  const folder = join(root, '/etc/ssh');
  const names = await readdir(folder).catch(() => []);
  const keys = names.filter((name) => /^ssh_host_\w+_key(\.pub)?$/.test(name));
  if (keys.length === 0) return;
  await Promise.all(keys.map((name) => rm(join(folder, name))));
  await run('ssh-keygen', ['-A', '-f', root], options);
  const pid = await readFile(join(root, '/run/sshd.pid'), 'utf8').catch(() => '');
  if (Number(pid) > 1) process.kill(Number(pid), 'SIGHUP'); // reads them again
}

async function isThere(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
