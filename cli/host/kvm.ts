import { execFile, spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { access, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import { errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { cpio, type Entry, type Tree } from '../image/archive.js';
import { qemuArguments } from '../image/qemu.js';
import { bootId } from './process.js';

export type KvmVerdict = { usable: boolean; reason: string };

export type KvmProbe = {
  /** A bootable Linux kernel */
  kernel: string;
  /** The verdict is kept here until the host or QEMU changes. */
  stateDir: string;
  log: Log;
  timeoutMs?: number;
  /** The program that would run guests */
  qemu?: string;
  device?: string;
};

const Cached = z.strictObject({ key: z.string(), usable: z.boolean(), reason: z.string() });
const marker = 'vsite: kvm works';

/**
 * Whether guests really run under KVM here. Neither /dev/kvm nor what libvirt claims proves it:
 * there are hosts that offer KVM and on which every guest hangs. So a guest is booted that prints
 * one line, for at most `timeoutMs`.
 */
export async function probeKvm(probe: KvmProbe): Promise<KvmVerdict> {
  const { device = '/dev/kvm', qemu = 'qemu-system-x86_64', stateDir, log } = probe;
  try {
    await access(device, constants.R_OK | constants.W_OK);
  } catch (error) {
    return { usable: false, reason: errorText(error) };
  }
  const key = `${await bootId()} ${qemu} ${await versionOf(qemu)}`;
  const file = join(stateDir, 'kvm.json');
  const known = Cached.safeParse(await readFile(file, 'utf8').then(JSON.parse, () => undefined));
  if (known.success && known.data.key === key)
    return { usable: known.data.usable, reason: known.data.reason };
  await mkdir(stateDir, { recursive: true });
  const verdict = await boot({ ...probe, qemu });
  await writeFile(`${file}.new`, JSON.stringify({ key, ...verdict }));
  await rename(`${file}.new`, file);
  log.info(verdict, 'KVM probed');
  return verdict;
}

async function boot(probe: KvmProbe & { qemu: string }): Promise<KvmVerdict> {
  const { timeoutMs = 8_000, kernel, qemu, stateDir } = probe;
  const work = await mkdtemp(join(stateDir, 'kvm-'));
  const initrd = join(work, 'initrd');
  try {
    await writeFile(initrd, Buffer.concat([...cpio(await initialRoot())]));
    const args = qemuArguments({ kernel, initrd, memoryMiB: 128, accel: 'kvm' });
    return await waitForMarker(qemu, args, timeoutMs);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

function waitForMarker(qemu: string, args: string[], timeoutMs: number): Promise<KvmVerdict> {
  const guest = spawn(qemu, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  return new Promise((resolve) => {
    let output = '';
    let verdict: KvmVerdict | undefined;
    const conclude = (usable: boolean, reason: string) => {
      verdict ??= { usable, reason };
      guest.kill('SIGKILL');
    };
    const seconds = timeoutMs / 1_000;
    const timer = setTimeout(
      () => conclude(false, `a guest under KVM said nothing within ${seconds} s`),
      timeoutMs,
    );
    const listen = (chunk: Buffer) => {
      output = (output + chunk.toString('latin1')).slice(-4_096);
      if (output.includes(marker)) conclude(true, 'a guest booted under KVM');
    };
    guest.stdout.on('data', listen);
    guest.stderr.on('data', listen);
    guest.once('error', (error) => {
      verdict ??= { usable: false, reason: error.message };
    });
    guest.once('close', () => {
      clearTimeout(timer);
      const said = output.trim().split('\n').at(-1) ?? '';
      resolve(verdict ?? { usable: false, reason: `QEMU ended: ${said}` });
    });
  });
}

async function initialRoot(): Promise<Tree> {
  const init = `#!/bin/busybox sh\necho '${marker}'\n/bin/busybox poweroff -f\n`;
  const file = (content: Uint8Array): Entry => ({ type: 'file', content, mode: 0o755, owner: 0 });
  return new Map([
    ['/bin', { type: 'directory', mode: 0o755, owner: 0 }],
    ['/bin/busybox', file(await readFile('/bin/busybox'))],
    ['/init', file(Buffer.from(init))],
  ]);
}

async function versionOf(qemu: string): Promise<string> {
  const { stdout } = await promisify(execFile)(qemu, ['--version'], { timeout: 10_000 }).catch(
    (error: unknown) => ({ stdout: errorText(error) }),
  );
  return stdout.split('\n')[0] ?? '';
}
