import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { once } from 'node:events';
import { connect } from 'node:net';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { deleteAndWait } from '#cli/client/resources.js';
import { buildDemoContainer, buildDemoVm, type BuiltImage } from '#cli/image/build.js';
import { qemuArguments } from '#cli/image/qemu.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { createTargetSystem, waitUntilReady } from '#cli/quickstart/main-job.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { domainXml } from '#xnjs/vm/domain-xml.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { Workspace } from '#xnjs/vm/workspace.js';
import { Grid, noContainers, noMachines } from '../grid/grid.js';

/**
 * How much longer a start takes through VSite (`POST` to READY, seen by a client of the gateway) than
 * bare: the same image started by hand, until the agent's first byte. Prints medians and their ratio. For
 * the container a second line compares with libvirt alone, whose own start of a container is most of it.
 *
 * usage: npm run bench:start -- [rounds]
 */
const rounds = Number(process.argv[2] ?? 5);
const signal = AbortSignal.timeout(1_800_000);
/** What an HTTP/2 client says first; the agent answers with its settings. */
const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0', 'latin1');

/** Resolves at the first byte that the agent sends over the socket. */
async function firstByte(path: string): Promise<void> {
  for (;;) {
    const socket = connect(path);
    try {
      await once(socket, 'connect');
      socket.write(preface);
      await once(socket, 'data');
      return;
    } catch {
      await sleep(5, undefined, { signal });
    } finally {
      socket.destroy();
    }
  }
}

/** @returns ms from the start of the process to the agent's first byte */
async function timeBare(start: () => ChildProcess, socket: string): Promise<number> {
  await rm(socket, { force: true });
  const started = performance.now();
  const child = start();
  const ended = once(child, 'exit');
  await Promise.race([
    firstByte(socket),
    ended.then(() => {
      throw new Error('the bare guest has ended');
    }),
  ]);
  const ms = performance.now() - started;
  child.kill('SIGKILL');
  await ended;
  return ms;
}

function bareMachine({ parts }: BuiltImage, directory: string): () => Promise<number> {
  const socket = join(directory, 'vm.sock');
  const { kernel = '', initrd = '' } = parts;
  const guest = { kernel, initrd, memoryMiB: 384, accel: 'tcg', channelSocket: socket } as const;
  return () =>
    timeBare(() => spawn('qemu-system-x86_64', qemuArguments(guest), { stdio: 'ignore' }), socket);
}

async function bareContainer(
  { parts }: BuiltImage,
  directory: string,
): Promise<() => Promise<number>> {
  const root = join(directory, 'root');
  const shared = join(directory, 'shared');
  await mkdir(root);
  await mkdir(shared);
  execFileSync('tar', ['-x', '-f', parts.rootfs ?? '', '-C', root]);
  const script = `mount --bind ${shared} ${root}/run/vsite && mount -t proc proc ${root}/proc && exec chroot ${root} /init`;
  const namespaces = ['--mount', '--pid', '--net', '--ipc', '--uts', '--fork', '--kill-child'];
  await mkdir(join(root, 'run', 'vsite'), { recursive: true });
  return () =>
    timeBare(
      () => spawn('unshare', [...namespaces, 'sh', '-c', script], { stdio: 'ignore' }),
      join(shared, 'agent.sock'),
    );
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
}

/** The same domain that VSite would define, started past it by libvirt's own interface. */
async function libvirtContainer(image: BuiltImage): Promise<() => Promise<number>> {
  const libvirt = await LibvirtClient.connect({ uri: grid.libvirtd.uri('lxc'), log: silentLog });
  cleanUp.defer(() => libvirt.close());
  const workspace = new Workspace(join(grid.layout.state, 'by-hand'));
  return async () => {
    const id = randomUUID();
    const system: TargetSystem = {
      id,
      ownerDn: 'CN=Bench',
      driver: 'lxc',
      state: 'INITIALIZING',
      boot: {},
      tags: [],
      createdMs: 0,
      image: { id: image.key, metadata: image.metadata, parts: {} },
      parameters: { cpus: 1, memoryMiB: image.metadata.requirements.memoryMiB.default },
      evidence: { source: 'user', fact: 'requested', atMs: 0 },
    };
    const paths = await workspace.prepare(system, image.parts);
    const xml = domainXml(system, paths, 'bench');
    const started = performance.now();
    const { dom } = await libvirt.call('domain_define_xml_flags', { xml, flags: 0 });
    await libvirt.call('domain_create_with_flags', { dom, flags: 0 });
    await firstByte(paths.agentSocket);
    const ms = performance.now() - started;
    await libvirt.call('domain_destroy_flags', { dom, flags: 0 });
    await libvirt.call('domain_undefine_flags', { dom, flags: 0 });
    await workspace.remove(id);
    return ms;
  };
}

async function compare(
  name: string,
  bare: () => Promise<number>,
  through: () => Promise<number>,
): Promise<void> {
  await bare(); // warm caches for both
  await through();
  const times = { bare: [] as number[], vsite: [] as number[] };
  for (let round = 0; round < rounds; round++) {
    times.bare.push(await bare());
    times.vsite.push(await through());
  }
  const [a, b] = [median(times.bare), median(times.vsite)];
  const list = (all: readonly number[]): string => all.map((ms) => ms.toFixed(0)).join(' ');
  process.stdout.write(
    `${name.padEnd(10)} bare ${a.toFixed(0)} ms, VSite ${b.toFixed(0)} ms, ratio ${(b / a).toFixed(2)}` +
      `   (bare: ${list(times.bare)}; VSite: ${list(times.vsite)})\n`,
  );
}

if (noMachines) throw new Error(noMachines);
await using cleanUp = new Scope();
const directory = await mkdtemp(join(tmpdir(), 'vsite-bench-'));
await chmod(directory, 0o711);
await using grid = await Grid.start();
const user = await grid.user();
const build = { cacheDir: join(defaultCacheDirectory(), 'images'), log: silentLog };

async function throughVsite(image: string): Promise<number> {
  const started = performance.now();
  const site = await createTargetSystem(user, image, {});
  await waitUntilReady(user, site, signal, () => undefined);
  const ms = performance.now() - started;
  await deleteAndWait(user, site, signal);
  return ms;
}

try {
  const load = loadavg()[0]?.toFixed(2) ?? '?';
  process.stdout.write(
    `${cpus().length} cores, load ${load}, ${rounds} rounds, medians; software emulation\n`,
  );
  const vm = await grid.publishDemo('vm');
  await compare('machine', bareMachine(await buildDemoVm(build), directory), () =>
    throughVsite(vm),
  );
  if (!noContainers) {
    const container = await grid.publishDemo('container');
    const image = await buildDemoContainer(build);
    const byHand = await bareContainer(image, directory);
    await compare('container', byHand, () => throughVsite(container));
    await compare('by libvirt', await libvirtContainer(image), () => throughVsite(container));
  }
} finally {
  await rm(directory, { recursive: true, force: true });
}
