import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { libvirtdLayout, writeConfig } from '#cli/host/libvirtd-setup.js';
import { startLibvirtd, type LibvirtDriver } from '#cli/host/libvirtd.js';
import { LibvirtClient, type LibvirtClientOptions } from '#kernel/libvirt/client.js';
import { silentLog } from '#kernel/log.js';

const isRoot = process.getuid?.() === 0;

/** Why tests with a real daemon cannot run here, or false. */
export const withoutLibvirtd = (await inPath('libvirtd')) ? false : 'libvirtd is not installed';
export const withoutContainers =
  withoutLibvirtd ||
  (isRoot ? false : 'containers need root') ||
  ((await inPath('busybox')) ? false : 'busybox is not installed');

async function inPath(program: string): Promise<boolean> {
  const folders = `${process.env['PATH'] ?? ''}${delimiter}/usr/sbin`.split(delimiter);
  const found = folders.map((folder) => access(join(folder, program)));
  return Promise.any(found).then(
    () => true,
    () => false,
  );
}

/** A libvirtd of its own for a test file, and clients of it. */
export async function aDaemon() {
  const stateDir = await mkdtemp(join(tmpdir(), 'vsite-lv-'));
  const start = () => startLibvirtd({ stateDir, log: silentLog });
  let daemon = await start();
  const options = (driver: LibvirtDriver, more: Partial<LibvirtClientOptions> = {}) => ({
    uri: daemon.uri(driver),
    log: silentLog,
    ...more,
  });
  return {
    stateDir,
    options,
    socketPath: daemon.socketPath,
    connect: (driver: LibvirtDriver, more?: Partial<LibvirtClientOptions>) =>
      LibvirtClient.connect(options(driver, more)),
    /** As `kill -9` would. */
    kill: () => daemon.stop(),
    async restart() {
      daemon = await start();
    },
    /** Of libvirtd itself: the namespace and the reaper are its ancestors. */
    processId: () => findDescendant(daemon.pid!, 'libvirtd'),
    async [Symbol.asyncDispose]() {
      await daemon.stop();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}

/** Hides the folders of the host's libvirt; guests, and so the rest, are not needed. */
const listenScript = `set -e
for part in etc:/etc lib:/var/lib cache:/var/cache log:/var/log run:/run; do
  mkdir -p "$1/hidden/\${part%%:*}" "\${part#*:}/libvirt"
  mount --bind "$1/hidden/\${part%%:*}" "\${part#*:}/libvirt"
done
exec libvirtd --config "$1/etc/libvirtd.conf" --pid-file "$1/libvirtd.pid" --listen`;

/**
 * A daemon on TCP ports of this host: `startLibvirtd` would, as root, put it into a network of its own,
 * where only its guests could reach it. `configure` gets a folder and returns lines of libvirtd.conf.
 */
export async function aListeningDaemon(configure: (folder: string) => Promise<readonly string[]>) {
  const stateDir = await mkdtemp(join(tmpdir(), 'vsite-lv-'));
  const extraConfig = await configure(stateDir);
  if (!isRoot) {
    const daemon = await startLibvirtd({ stateDir, log: silentLog, extraConfig, listen: true });
    return disposable(stateDir, () => daemon.stop());
  }
  const { socket, log } = libvirtdLayout(stateDir, true);
  await writeConfig(stateDir, true, extraConfig);
  const namespaces = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc'];
  const inside = ['tini', '-g', '--', 'sh', '-c', listenScript, 'sh', stateDir];
  const child = spawn('unshare', [...namespaces, '--propagation', 'private', ...inside], {
    stdio: 'ignore',
  });
  const exit = once(child, 'exit');
  const uri = `test+unix:///default?socket=${socket}`;
  await using client = new LibvirtClient({ uri, log: silentLog });
  client.start();
  const failed = exit.then(async () => {
    throw new Error(await readFile(log, 'utf8'));
  });
  await Promise.race([client.ready(AbortSignal.timeout(30_000)), failed]);
  failed.catch(() => undefined); // from now on its end is for the tests to notice
  return disposable(stateDir, async () => {
    child.kill('SIGKILL');
    await exit;
  });
}

function disposable(stateDir: string, stop: () => Promise<unknown>) {
  return {
    stateDir,
    async [Symbol.asyncDispose]() {
      await stop();
      await rm(stateDir, { recursive: true, force: true });
    },
  };
}

/** The first process below another that has a name. */
export async function findDescendant(pid: number, name: string): Promise<number> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
  for (const child of text.split(' ').filter(Boolean).map(Number)) {
    const command = (await readFile(`/proc/${child}/comm`, 'utf8')).trim();
    return command === name ? child : await findDescendant(child, name);
  }
  throw new Error(`${pid} has no descendant ${name}`);
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

export const testDomain = (name: string): string =>
  `<domain type='test'><name>${name}</name><memory unit='MiB'>8</memory><os><type>hvm</type></os></domain>`;
