import { readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { errorText, GridError } from '#kernel/errors.js';
import { createHttpClient } from '#kernel/http/client.js';
import { projectRoot } from '#kernel/project-root.js';
import {
  isRunning,
  kill,
  readRecord,
  spawnDetached,
  waitFor,
  writeRecord,
} from '../host/process.js';
import type { Layout } from './layout.js';

const startTimeoutMs = 60_000;
const stopTimeoutMs = 20_000;
/** Each question makes a TLS context, on the processor that the server needs to start. */
const askEveryMs = 50;

export class ServerError extends GridError<'SITE_UNAVAILABLE' | 'ADDRESS_IN_USE'> {}

/**
 * Starts the server of an installation as a process of its own that outlives this one, and waits until
 * it answers through its gateway. One that runs already is left alone.
 * @throws {@link ServerError} with the last error in its log
 */
export async function startServer(layout: Layout, url: string): Promise<{ started: boolean }> {
  const running = await readRecord(layout.serverRecord);
  if (running && (await isRunning(running))) return { started: false };
  const before = await stat(layout.log).then(
    ({ size }) => size,
    () => 0,
  );
  const record = await spawnDetached(
    process.execPath,
    [join(projectRoot, 'cli', 'serve-compiled.mjs'), '--config', layout.config],
    { env: process.env, cwd: projectRoot, outputFile: layout.log },
  );
  await writeRecord(layout.serverRecord, record);
  const settled = async (): Promise<boolean> =>
    (await answers(layout, url)) || !(await isRunning(record));
  await waitFor(settled, startTimeoutMs, askEveryMs);
  const alive = await isRunning(record);
  if (alive && (await answers(layout, url))) return { started: true };
  const what = alive ? 'the server does not answer' : 'the server has ended';
  const { code, text } = await lastWords(layout.log, before);
  throw new ServerError(code, `${what}: ${text}`);
}

/** Ends the server of an installation; machines run on. Fine when there is none. */
export async function stopServer(layout: Layout): Promise<void> {
  const record = await readRecord(layout.serverRecord);
  if (!record) return;
  if (await isRunning(record)) {
    process.kill(record.pid, 'SIGTERM');
    const gone = await waitFor(async () => !(await isRunning(record)), stopTimeoutMs);
    if (!gone) await kill(record);
  }
  await rm(layout.serverRecord, { force: true });
}

async function answers(layout: Layout, url: string): Promise<boolean> {
  try {
    const ca = await readFile(join(layout.credentials, 'ca.pem'), 'utf8');
    await using client = createHttpClient({ baseUrl: url, tls: { ca }, timeoutMs: 2_000 });
    await client.json('GET', '/VSITE/rest/core');
    return true;
  } catch {
    return false;
  }
}

type LastWords = { readonly code: ServerError['code']; readonly text: string };

/** The last fatal error in the log from an offset on, else its last line. */
async function lastWords(log: string, offset: number): Promise<LastWords> {
  const code = 'SITE_UNAVAILABLE';
  try {
    const written = (await readFile(log)).subarray(offset).toString();
    const [last = '', ...earlier] = written.trim().split('\n').slice(-50).reverse();
    const error = [last, ...earlier].map(errorOf).find((found) => found !== undefined);
    return error ?? { code, text: last === '' ? 'its log is empty' : last };
  } catch (error) {
    return { code, text: errorText(error) };
  }
}

const LogLine = z.object({
  level: z.number().min(50),
  msg: z.string(),
  err: z.object({ message: z.string(), code: z.string().optional() }).optional(),
});

function errorOf(line: string): LastWords | undefined {
  try {
    const { msg, err } = LogLine.parse(JSON.parse(line));
    const code = err?.code === 'ADDRESS_IN_USE' ? 'ADDRESS_IN_USE' : 'SITE_UNAVAILABLE';
    return { code, text: err?.message ?? msg };
  } catch {
    return undefined;
  }
}
