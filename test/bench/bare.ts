import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { randomUUID } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BuiltImage } from '#cli/image/build.js';
import { qemuArguments } from '#cli/image/qemu.js';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { domainXml } from '#xnjs/vm/domain-xml.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { Workspace } from '#xnjs/vm/workspace.js';

/*
 * Starts of images by hand, past VSite: what its own starts are measured against.
 */

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
async function timeBare(
  start: () => ChildProcess,
  socket: string,
  seen?: (pid: number) => void,
): Promise<number> {
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
  seen?.(child.pid ?? 0);
  child.kill('SIGKILL');
  await ended;
  return ms;
}

export function bareMachine(
  { parts }: BuiltImage,
  directory: string,
  seen?: (pid: number) => void,
): () => Promise<number> {
  const socket = join(directory, 'vm.sock');
  const { kernel = '', initrd = '' } = parts;
  const guest = { kernel, initrd, memoryMiB: 384, accel: 'tcg', channelSocket: socket } as const;
  return () =>
    timeBare(
      () => spawn('qemu-system-x86_64', qemuArguments(guest), { stdio: 'ignore' }),
      socket,
      seen,
    );
}

export async function bareContainer(
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

/** The same domain that VSite would define, started past it by libvirt's own interface. */
export function libvirtContainer(
  image: BuiltImage,
  libvirt: LibvirtClient,
  directory: string,
): () => Promise<number> {
  const workspace = new Workspace(directory);
  return async () => {
    const id = randomUUID();
    const system: TargetSystem = {
      id,
      ownerDn: 'CN=Bench',
      driver: 'lxc',
      host: 'local',
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
    await firstByte(workspace.agentSocket({ id }));
    const ms = performance.now() - started;
    await libvirt.call('domain_destroy_flags', { dom, flags: 0 });
    await libvirt.call('domain_undefine_flags', { dom, flags: 0 });
    await workspace.remove(id);
    return ms;
  };
}
