import { readdir, readFile, readlink, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { waitFor, type ProcessRecord } from './process.js';

/**
 * The control groups of the guests in the pid namespace of `process`, as folders. libvirtd removes
 * them when it ends a guest; when all are killed at once, nobody does.
 */
export async function guestGroups(process: ProcessRecord): Promise<string[]> {
  const namespaceOf = (pid: string) => readlink(`/proc/${pid}/ns/pid`).catch(() => undefined);
  const ours = await namespaceOf(String(process.pid));
  const groups = new Set<string>();
  if (ours === undefined || ours === (await namespaceOf('self'))) return [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    if ((await namespaceOf(pid)) !== ours) continue;
    const lines = await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '');
    for (const [, controllers = '', group = ''] of lines.matchAll(
      /^\d+:(.*?):(\/.*?\.libvirt-(?:qemu|lxc))/gm,
    ))
      groups.add(join('/sys/fs/cgroup', controllers.replace('name=', ''), group));
  }
  return [...groups];
}

/** Removes groups without processes; the kernel may need a moment to see that they are gone. */
export async function removeGroups(groups: readonly string[]): Promise<void> {
  for (const group of groups) await waitFor(() => removeGroup(group), 1_000);
}

/** @returns whether it is gone */
async function removeGroup(folder: string): Promise<boolean> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  for (const entry of entries) if (entry.isDirectory()) await removeGroup(join(folder, entry.name));
  return rmdir(folder).then(
    () => true,
    (error: unknown) => (error as NodeJS.ErrnoException).code === 'ENOENT',
  );
}
