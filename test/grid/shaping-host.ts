import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createReadStream, createWriteStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { buildImage } from '#cli/image/build.js';
import { cpio, type Entry } from '#cli/image/archive.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog } from '#kernel/log.js';
import type { Scope } from '#kernel/scope.js';
import { writePki } from '../kernel/libvirt/pki.js';
import { inProject } from '../program.js';
import { eventually, freePort } from './grid.js';

/** Emulated twice, a daemon takes its time. */
const bootMs = 300_000;
const loopback = '127.0.0.1';

/** As machines on that host see this one, at its loopback: QEMU's user network. */
export const outside = '10.0.2.2';
/** Of that host. */
export const address = '10.0.2.15';

/**
 * A host of its own: Debian's kernel, libvirt and QEMU in a machine that QEMU emulates here, so that it has what
 * this kernel may lack. It ends with the scope.
 * @returns the URI of its libvirtd
 */
export async function startShapingHost(directory: string, scope: Scope): Promise<string> {
  const cacheDir = join(defaultCacheDirectory(), 'images');
  const folder = inProject('test/fixtures/images/libvirt-host');
  const { parts } = await buildImage(folder, { cacheDir, log: silentLog });
  const pki = join(directory, 'pki');
  await writePki(pki, loopback);
  const initrd = join(directory, 'initrd');
  // in front, where the kernel takes an archive that is not compressed
  await pipeline(Readable.from(cpio(await secrets(pki))), createWriteStream(initrd));
  await pipeline(createReadStream(parts.initrd ?? ''), createWriteStream(initrd, { flags: 'a' }));
  const port = await freePort();
  const console = join(directory, 'console.log');
  const forward = `hostfwd=tcp:${loopback}:${port}-${address}:16514`;
  const args = [
    ...['-machine', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', '4096'],
    ...['-kernel', parts.kernel ?? '', '-initrd', initrd],
    ...['-append', 'console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on'],
    ...['-netdev', `user,id=net,${forward}`, '-device', 'virtio-net-pci,netdev=net,romfile='],
    ...['-device', 'virtio-rng-pci', '-nodefaults', '-display', 'none', '-no-reboot'],
    ...['-serial', `file:${console}`],
  ];
  const qemu = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'ignore', 'inherit'] });
  scope.defer(async () => {
    if (qemu.exitCode !== null || qemu.signalCode !== null) return;
    qemu.kill('SIGKILL');
    await once(qemu, 'exit');
  });
  const uri = `qemu+tls://${loopback}:${port}/system?pkipath=${pki}`;
  await eventually('the host answers', () => answers(uri, qemu.exitCode, console), bootMs);
  return uri;
}

async function answers(uri: string, exitCode: number | null, console: string): Promise<boolean> {
  if (exitCode !== null) throw new Error(`it has ended: ${await readFile(console, 'utf8')}`);
  try {
    await using client = await LibvirtClient.connect({ uri, log: silentLog });
    return Boolean(client);
  } catch {
    return false;
  }
}

/** What libvirtd proves itself by, as an archive for the root of its host. */
async function secrets(pki: string): Promise<Map<string, Entry>> {
  const tree = new Map<string, Entry>();
  for (const path of ['/etc', '/etc/vsite'])
    tree.set(path, { type: 'directory', mode: 0o755, owner: 0 });
  for (const name of ['cacert.pem', 'server.pem', 'server.key']) {
    const content = await readFile(join(pki, name));
    tree.set(`/etc/vsite/${name}`, { type: 'file', content, mode: 0o600, owner: 0 });
  }
  return tree;
}
