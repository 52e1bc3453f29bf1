import { copyFile, mkdir, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { errorText } from '#kernel/errors.js';
import { libvirtdLayout } from '../host/libvirtd-setup.js';
import type { Layout } from './layout.js';

const writable = 'choose folders that you may write to with --state-dir and --cache-dir';
/** What to do, by the code of an error, ours or the system's. */
const remedies: Readonly<Record<string, string>> = {
  ADDRESS_IN_USE: 'choose another port with --port, or end what uses this one',
  EACCES: writable,
  EPERM: writable,
  EROFS: writable,
  ENOTDIR: writable,
  ENOSPC: 'make room there, or choose another place with --state-dir and --cache-dir',
  EDQUOT: 'make room there, or choose another place with --state-dir and --cache-dir',
};

/**
 * What failed, what a person can do, and where more is written.
 * @param keepIn folder to which the logs are copied, for those in `layout` will not stay
 */
export async function explainFailure(
  error: unknown,
  layout: Layout,
  keepIn?: string,
): Promise<string> {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  const remedy = remedies[code];
  const logs = await findLogs(layout);
  const kept = keepIn === undefined ? logs : await copyLogs(logs, keepIn);
  return [
    errorText(error),
    ...(remedy === undefined ? [] : [`what to do: ${remedy}`]),
    ...kept.map((path) => `more in ${path}`),
  ].join('\n  ');
}

async function findLogs({ log, libvirt }: Layout): Promise<string[]> {
  const { log: libvirtdLog, output } = libvirtdLayout(libvirt, process.getuid?.() === 0);
  const found: string[] = [];
  for (const path of [log, libvirtdLog, output]) {
    const size = await stat(path).then(
      (file) => file.size,
      () => 0,
    );
    if (size > 0) found.push(path);
  }
  return found;
}

/** Replaces those of the failure before. What cannot be copied is not worth another failure. */
async function copyLogs(logs: readonly string[], folder: string): Promise<string[]> {
  if (logs.length === 0) return [];
  try {
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const copies = logs.map((path) => [path, join(folder, basename(path))] as const);
    for (const [from, to] of copies) await copyFile(from, to);
    return copies.map(([, to]) => to);
  } catch {
    return [];
  }
}
