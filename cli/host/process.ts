import { spawn } from 'node:child_process';
import { open, readFile, rename, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';

/** A process as another process can find it again: a pid alone may long belong to somebody else. */
export const ProcessRecord = z.strictObject({
  pid: z.int().min(2),
  /** Field 22 of /proc/<pid>/stat: clock ticks between boot and the start of the process */
  startTicks: z.string().regex(/^\d+$/),
  bootId: z.string(),
});
export type ProcessRecord = z.output<typeof ProcessRecord>;

export async function bootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
}

/** State letter and start of a process; undefined when there is none, or only its zombie. */
async function findStartTicks(pid: number): Promise<string | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    // the command's name, in parentheses, may itself hold blanks and parentheses
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

export async function findProcess(pid: number): Promise<ProcessRecord | undefined> {
  const startTicks = await findStartTicks(pid);
  return startTicks === undefined ? undefined : { pid, startTicks, bootId: await bootId() };
}

export async function isRunning(record: ProcessRecord): Promise<boolean> {
  return (
    (await findStartTicks(record.pid)) === record.startTicks && (await bootId()) === record.bootId
  );
}

/** Reads what {@link writeRecord} wrote; undefined when there is nothing usable. */
export async function readRecord(path: string): Promise<ProcessRecord | undefined> {
  try {
    return ProcessRecord.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch {
    return undefined;
  }
}

/** Whole or not at all: a reader never sees half a record. */
export async function writeRecord(path: string, record: ProcessRecord): Promise<void> {
  await writeFile(`${path}.new`, JSON.stringify(record), { mode: 0o600 });
  await rename(`${path}.new`, path);
}

/** Sends SIGKILL, unless the pid belongs to another process by now. */
export async function kill(record: ProcessRecord): Promise<void> {
  if (!(await isRunning(record))) return;
  try {
    process.kill(record.pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

export async function childrenOf({ pid }: ProcessRecord): Promise<ProcessRecord[]> {
  const pids = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
  const found = await Promise.all(
    pids.trim().split(' ').filter(Boolean).map(Number).map(findProcess),
  );
  return found.filter((child) => child !== undefined);
}

/** Polls until `condition` holds. @returns false after `timeoutMs` */
export async function waitFor(
  condition: () => Promise<boolean>,
  timeoutMs: number,
  everyMs = 20,
): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > deadline) return false;
    await sleep(everyMs);
  }
  return true;
}

export type DetachedOptions = { env: NodeJS.ProcessEnv; cwd: string; outputFile: string };

/**
 * Starts a process in a session of its own that outlives this one, even its `kill -9`.
 * @throws the system's error when the program cannot be executed
 */
export async function spawnDetached(
  command: string,
  args: readonly string[],
  { env, cwd, outputFile }: DetachedOptions,
): Promise<ProcessRecord> {
  await using output = await open(outputFile, 'a', 0o600);
  const child = spawn(command, args, {
    detached: true,
    stdio: ['ignore', output.fd, output.fd],
    env,
    cwd,
  });
  const pid = await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('spawn', () => resolve(child.pid ?? 0));
  });
  child.unref();
  const record = await findProcess(pid);
  // it may have ended already; a record that matches no process says just that
  return record ?? { pid, startTicks: '0', bootId: await bootId() };
}
