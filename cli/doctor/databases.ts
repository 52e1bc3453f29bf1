import { constants } from 'node:fs';
import { access, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { asGridError, errorText } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import type { Configuration } from './configuration.js';
import { bad, good, together, unseen, type Finding } from './finding.js';
import { exists, nearest } from './paths.js';

type DatabaseConfig = { readonly url: string; readonly passwordFile?: string | undefined };

/** By the code of SQLite, of Node or of PostgreSQL. */
const remedies: Readonly<Record<string, string>> = {
  SQLITE_NOTADB: 'correct its url, or put a copy of the database there',
  SQLITE_CORRUPT: 'put a copy of the database there',
  SQLITE_BUSY: 'end the program that holds it',
  SQLITE_FULL: 'make room on its disk',
  ECONNREFUSED: 'start PostgreSQL, or correct its url',
  ENOENT: 'start PostgreSQL, or correct its url',
  ENOTFOUND: 'correct the host in its url',
  '28P01': 'put the password into passwordFile',
  '28000': "allow the user in PostgreSQL's pg_hba.conf, or correct its url",
  '3D000': 'run: createdb with the name in its url',
  '53300': "raise PostgreSQL's max_connections",
};

/** Of each database that a service keeps; none is made. */
export async function checkDatabases({ imagerepo, targetsystem }: Configuration): Promise<Finding> {
  const sources = [imagerepo, targetsystem].flatMap(({ attributes }) => attributes.sources);
  const tables = sources.flatMap((each) => (each.kind === 'table' ? [each.database] : []));
  const all = [targetsystem.xnjs.database, imagerepo.database, ...tables];
  const wanted = [...new Map(all.map((each) => [each.url, each])).values()];
  const findings = await Promise.all(wanted.map(checkDatabase));
  return together(findings, findings.map(({ text }) => text).join(', '));
}

async function checkDatabase({ url, passwordFile }: DatabaseConfig): Promise<Finding> {
  const [, path] = /^sqlite:(\/.*)$/.exec(url) ?? [];
  try {
    const missing = path === undefined ? undefined : await checkFile(path);
    if (missing) return missing;
    const password = passwordFile && (await readFile(passwordFile, 'utf8')).split('\n')[0]?.trim();
    await using database = await openDatabase({ url, password, log: silentLog });
    // SQLite looks into the file only when it is asked for what is in it
    if (path !== undefined) await database.sequelize.query('SELECT count(*) FROM sqlite_master');
    return good(`${database.sequelize.getDialect()} answers`);
  } catch (error) {
    const { reason = errorText(error), code } = asGridError(error)?.details ?? {};
    if (typeof code !== 'string')
      return unseen(error, `correct its url: sqlite:/… or postgres://…`);
    const fallback =
      path === undefined
        ? 'look into the log of PostgreSQL'
        : `let the server's user write ${path} and its folder`;
    return bad(`${nameOf(url)}: ${String(reason)}`, remedies[code] ?? fallback);
  }
}

/** Of a file that cannot be opened as it has to be, or that is made at the first start. */
async function checkFile(path: string): Promise<Finding | undefined> {
  const isThere = await exists(path);
  const written = isThere ? path : await nearest(dirname(path));
  try {
    await access(written, constants.W_OK);
  } catch (error) {
    return bad(errorText(error), `let the server's user write ${written}`);
  }
  return isThere ? undefined : good(`${path} is made at the first start`);
}

/** An address may hold a password. */
function nameOf(url: string): string {
  return url.replace(/:[^:@/]*@/, '@');
}
