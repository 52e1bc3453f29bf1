import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chown, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { openDatabase } from '#kernel/persistence/database.js';
import { silentLog } from '#kernel/log.js';
import type { Scope } from '#kernel/scope.js';

const run = promisify(execFile);
/** `nobody`: PostgreSQL refuses to run as root. */
const account = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};

/** Debian keeps the programs of each version in a folder that is not searched. */
async function findPrograms(): Promise<string | undefined> {
  const versions = await readdir('/usr/lib/postgresql').catch(() => []);
  const folders = versions.map((version) => `/usr/lib/postgresql/${version}/bin/`).reverse();
  for (const folder of ['', ...folders])
    if (await run(`${folder}initdb`, ['--version']).catch(() => undefined)) return folder;
  return undefined;
}

const programs = await findPrograms();
/** Why there is no PostgreSQL here, or `false`; for `skip`. */
export const noPostgres =
  programs === undefined && 'PostgreSQL (initdb, postgres) is not installed';

/** A server of its own on a unix socket, gone with the scope. @returns the URL of its database */
export async function startPostgres(scope: Scope): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'pg-'));
  scope.defer(() => rm(directory, { recursive: true, force: true }));
  if (account.uid !== undefined) await chown(directory, account.uid, account.gid);
  const data = join(directory, 'data');
  const options = { ...account, cwd: directory, env: { ...process.env, LC_ALL: 'C' } };
  await run(`${programs}initdb`, ['-D', data, '-U', 'grid', '-A', 'trust', '-N'], options);
  const server = spawn(
    `${programs}postgres`,
    ['-D', data, '-k', directory, '-c', 'listen_addresses=', '-F'],
    {
      ...options,
      stdio: 'ignore',
    },
  );
  const ended = once(server, 'exit');
  scope.defer(async () => {
    server.kill('SIGINT');
    await ended;
  });
  const url = `postgres://grid@localhost/postgres?host=${directory}`;
  await waitUntilItAnswers(url, directory);
  return url;
}

async function waitUntilItAnswers(url: string, directory: string): Promise<void> {
  const deadline = Date.now() + 20_000;
  for (;;) {
    try {
      await stat(join(directory, '.s.PGSQL.5432'));
      const database = await openDatabase({ url, log: silentLog });
      await database.close();
      return;
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await delay(50);
    }
  }
}
