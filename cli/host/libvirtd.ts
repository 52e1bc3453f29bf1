import { createConnection } from 'node:net';
import { constants } from 'node:fs';
import { access, mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { guestGroups, removeGroups } from './cgroups.js';
import { libvirtdLayout, writeConfig } from './libvirtd-setup.js';
import * as host from './process.js';

export class LibvirtdError extends GridError<'HYPERVISOR_UNAVAILABLE'> {}

export type LibvirtDriver = 'qemu' | 'lxc' | 'test';

export type Libvirtd = {
  /** The address for a driver of this daemon. @throws {@link LibvirtdError} if it has no such driver */
  uri(driver: LibvirtDriver): string;
  readonly drivers: readonly LibvirtDriver[];
  readonly socketPath: string;
  /** Undefined for the system's own daemon, which is not ours to stop */
  readonly pid: number | undefined;
  /** Ends our daemon with all its guests, whoever started it; does nothing to the system's own. */
  stop(): Promise<void>;
};

export type LibvirtdOptions = {
  /** Absolute; everything of this daemon lies below it. Short: socket names have 107 characters. */
  stateDir: string;
  log: Log;
  /** Kept between daemons: the first start asks QEMU for its abilities, which takes seconds. */
  cacheDir?: string;
  /** Lines of libvirtd.conf */
  extraConfig?: readonly string[];
  /** `--listen` for TCP and TLS, as `extraConfig` says */
  listen?: boolean;
  /** Networks of machines appear among ours, with libvirt's firewall rules; else in a namespace of their own */
  sharedNetwork?: boolean;
};

const systemSocket = '/run/libvirt/libvirt-sock';
const startTimeoutMs = 60_000;

/**
 * Starts a libvirtd of our own, or hands back the one that already runs for `stateDir`. It does
 * not end with this process. As root it lives in namespaces of its own with its guests; otherwise
 * it is a session daemon, which has no containers.
 * @throws {@link LibvirtdError} with the end of the daemon's log
 */
export async function startLibvirtd(options: LibvirtdOptions): Promise<Libvirtd> {
  const { log, extraConfig = [], listen = false } = options;
  const stateDir = checkStateDir(options.stateDir);
  const running = await findOwn(stateDir);
  if (running) return running;

  const system = isRoot();
  const layout = libvirtdLayout(stateDir, system);
  const cacheDir = resolve(options.cacheDir ?? join(stateDir, 'cache'));
  const started = performance.now();
  await writeConfig(stateDir, system, extraConfig);
  await mkdir(cacheDir, { recursive: true });
  await rm(layout.socket, { force: true });
  const own = system ? namespaces(options) : undefined;
  const record = await launch(stateDir, cacheDir, own, listen).catch((cause: unknown) => {
    throw new LibvirtdError('HYPERVISOR_UNAVAILABLE', errorText(cause), { stateDir }, { cause });
  });
  await host.writeRecord(layout.record, record);
  const ready = async () => (await answers(layout.socket)) || !(await host.isRunning(record));
  const inTime = await host.waitFor(ready, startTimeoutMs);
  if (!inTime || !(await host.isRunning(record))) {
    await stopLibvirtd(stateDir);
    const why = inTime ? 'libvirtd ended at once' : 'libvirtd does not answer';
    const said = await tail(layout.output, layout.log);
    throw new LibvirtdError('HYPERVISOR_UNAVAILABLE', `${why}: ${said}`, { stateDir });
  }
  log.info({ ms: Math.round(performance.now() - started), stateDir }, 'libvirtd started');
  return describe(layout.socket, system, record.pid, () => stopLibvirtd(stateDir));
}

/** The daemon that runs for `stateDir`, else, for root, the system's own where systemd runs it. */
export async function findLibvirtd(stateDir: string): Promise<Libvirtd | undefined> {
  const own = await findOwn(resolve(stateDir));
  if (own) return own;
  const systemd = isRoot() && (await exists('/run/systemd/system'));
  if (!systemd || !(await answers(systemSocket))) return undefined;
  return describe(systemSocket, true, undefined, () => Promise.resolve());
}

/** Ends the daemon of `stateDir` and all its guests. Fine when there is none, or twice at once. */
export async function stopLibvirtd(stateDir: string): Promise<void> {
  const layout = libvirtdLayout(resolve(stateDir), isRoot());
  const record = await host.readRecord(layout.record);
  if (!record) return;
  const [first] = await host.childrenOf(record);
  const groups = first ? await guestGroups(first) : [];
  // its child: the first process of the namespace, which takes all others with it, or libvirtd;
  // the parent then ends by itself
  const gone = await host.waitFor(async () => {
    for (const pid of await host.childrenOf(record)) await host.kill(pid);
    return !(await host.isRunning(record));
  }, 10_000);
  if (!gone)
    throw new LibvirtdError('HYPERVISOR_UNAVAILABLE', `libvirtd (${record.pid}) does not end`);
  await killGuests(layout.guests);
  await removeGroups(groups);
  await Promise.all(
    [layout.record, layout.socket, layout.pidFile].map((path) => rm(path, { force: true })),
  );
}

/** What of the host it does not share, as flags of unshare(1). */
function namespaces({ sharedNetwork = false }: LibvirtdOptions): readonly string[] {
  return ['--mount', '--pid', ...(sharedNetwork ? [] : ['--net'])];
}

async function launch(
  stateDir: string,
  cacheDir: string,
  own: readonly string[] | undefined,
  listen: boolean,
) {
  const layout = libvirtdLayout(stateDir, own !== undefined);
  const flags = listen ? ['--listen'] : [];
  const detached = { cwd: stateDir, outputFile: layout.output };
  const hostEnv = { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` };
  if (own) {
    const unshare = [...own, '--fork', '--kill-child', '--mount-proc'];
    const inside = ['tini', '-g', '--', 'sh', layout.script, stateDir, cacheDir];
    const args = [...unshare, '--propagation', 'private', ...inside, ...flags];
    return host.spawnDetached('unshare', args, { ...detached, env: hostEnv });
  }
  const env = {
    ...hostEnv,
    HOME: join(stateDir, 'home'),
    XDG_RUNTIME_DIR: layout.run,
    XDG_CONFIG_HOME: join(stateDir, 'home', '.config'),
    XDG_DATA_HOME: join(stateDir, 'home', '.local'),
    XDG_CACHE_HOME: cacheDir,
  };
  // tini as the subreaper: libvirt waits for the zombies of guests, which the host may reap late
  const args = ['-s', '--', 'libvirtd', '--config', layout.config, '--pid-file', layout.pidFile];
  return host.spawnDetached('tini', [...args, ...flags], { ...detached, env });
}

function describe(
  socketPath: string,
  system: boolean,
  pid: number | undefined,
  stop: () => Promise<void>,
): Libvirtd {
  const drivers: readonly LibvirtDriver[] = system ? ['qemu', 'lxc', 'test'] : ['qemu', 'test'];
  const uri = (driver: LibvirtDriver) => {
    if (!drivers.includes(driver))
      throw new LibvirtdError('HYPERVISOR_UNAVAILABLE', `${driver} guests need root`, { driver });
    const path = driver === 'test' ? 'default' : system ? 'system' : 'session';
    return `${driver}+unix:///${path}?socket=${encodeURIComponent(socketPath)}`;
  };
  return { uri, drivers, socketPath, pid, stop };
}

async function findOwn(stateDir: string): Promise<Libvirtd | undefined> {
  const system = isRoot();
  const { record: path, socket } = libvirtdLayout(stateDir, system);
  const record = await host.readRecord(path);
  if (!record || !(await host.isRunning(record)) || !(await answers(socket))) return undefined;
  return describe(socket, system, record.pid, () => stopLibvirtd(stateDir));
}

/** Asks for the list of authentication types, the one question that needs no other before it. */
function answers(socketPath: string): Promise<boolean> {
  const call = Buffer.alloc(28);
  // length, program, version, procedure auth_list, type call, serial, status
  [28, 0x20008086, 1, 66, 0, 1, 0].forEach((word, i) => call.writeUInt32BE(word, i * 4));
  return new Promise((done) => {
    const socket = createConnection(socketPath);
    socket.setTimeout(startTimeoutMs / 4, () => socket.destroy());
    socket.once('connect', () => socket.write(call));
    socket.once('data', () => (done(true), socket.destroy()));
    socket.once('error', () => socket.destroy());
    socket.once('close', () => done(false));
  });
}

/** A session's guests outlive their daemon; those in a namespace are gone already. */
async function killGuests(folder: string): Promise<void> {
  const files = await readdir(folder).catch(() => []);
  for (const file of files) {
    const pid = Number(await readFile(join(folder, file), 'utf8').catch(() => ''));
    const guest = pid > 1 ? await host.findProcess(pid) : undefined;
    if (!guest) continue;
    // the file may be from before the last boot
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.includes(`guest=${file.replace(/\.pid$/, '')},`)) await host.kill(guest);
  }
  await rm(folder, { recursive: true, force: true });
}

function checkStateDir(path: string): string {
  const stateDir = resolve(path);
  const longest = libvirtdLayout(stateDir, false).socket;
  // the kernel's limit for names of unix sockets; quotes would need escapes in libvirtd.conf
  if (Buffer.byteLength(longest) <= 107 && !/["\\\n]/.test(stateDir)) return stateDir;
  const why = `${stateDir} is no place for sockets: too long, or quotes in it`;
  throw new LibvirtdError('HYPERVISOR_UNAVAILABLE', why, { stateDir });
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

function exists(path: string): Promise<boolean> {
  return access(path, constants.F_OK).then(
    () => true,
    () => false,
  );
}

/** The last lines of the first file that has any. */
async function tail(...paths: string[]): Promise<string> {
  for (const path of paths) {
    const text = (await readFile(path, 'utf8').catch(() => '')).trim();
    if (text) return text.split('\n').slice(-5).join(' | ').slice(-1_000);
  }
  return 'it wrote no reason';
}
