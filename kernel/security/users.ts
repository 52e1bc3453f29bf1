import { randomBytes } from 'node:crypto';
import { readFile, rename, stat, writeFile } from 'node:fs/promises';
import { parseDocument, type Document } from 'yaml';
import { z } from 'zod';
import { systemClock, type Clock } from '#kernel/clock.js';
import { describeIssues, loadConfig } from '#kernel/config.js';
import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { dnKey, normalizeDn } from './dn.js';
import { hashPassword, storedPasswordPattern } from './password.js';
import { readSshKey } from './ssh-key.js';

export class UserError extends GridError<'CONFLICT' | 'BAD_REQUEST'> {}

const dn = z
  .string()
  .max(1024)
  .transform((text, context) => {
    try {
      return normalizeDn(text);
    } catch (error) {
      context.addIssue(errorText(error));
      return z.NEVER;
    }
  });
const account = z.string().regex(/^[A-Za-z_][A-Za-z0-9_.-]{0,63}$/, 'must be an account name');

const UserEntry = z.strictObject({
  /** What the user types; no colon, which ends it in a login. */
  name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$/, 'must be a user name'),
  dn,
  /** As `vsite user add` writes it. Without one the user comes with a certificate. */
  password: z.string().regex(storedPasswordPattern, 'must be scrypt:…').optional(),
  /** Lines of authorized_keys; the user may sign tokens with these keys. */
  sshKeys: z
    .array(
      z
        .string()
        .max(16_384)
        .superRefine((line, context) => {
          try {
            readSshKey(line);
          } catch (error) {
            context.addIssue(errorText(error));
          }
        }),
    )
    .max(20)
    .default([]),
  role: z.enum(['user', 'admin', 'banned']).default('user'),
  /** The account a grid user maps to; by default the user's name. */
  login: account.optional(),
  groups: z.array(account).max(100).default([]),
});
export type User = z.output<typeof UserEntry>;

export const UsersFile = z.strictObject({
  users: z
    .array(UserEntry)
    .max(100_000)
    .superRefine((users, context) => {
      const seen = new Set<string>();
      for (const { name, dn } of users) {
        for (const key of [name, dnKey(dn)]) {
          if (seen.has(key)) context.addIssue(`${name}: name or DN is there twice`);
          seen.add(key);
        }
      }
    })
    .nullable()
    .transform((users) => users ?? []),
});

/** Who may come in, and as what. */
export type Users = {
  findByName(name: string): Promise<User | undefined>;
  findByDn(dn: string): Promise<User | undefined>;
};

type Table = { readonly names: ReadonlyMap<string, User>; readonly dns: ReadonlyMap<string, User> };

export type UsersOptions = { log: Log; clock?: Clock; recheckMs?: number };

/**
 * The users of a YAML file. A change counts within `recheckMs`; while the file is missing or wrong,
 * what it last said stays in force.
 * @throws {@link ConfigError} `CONFIG_INVALID` when the first reading fails
 */
export async function openUsers(path: string, options: UsersOptions): Promise<Users> {
  const { log, clock = systemClock, recheckMs = 1_000 } = options;
  let version = await fileVersion(path);
  let table = await readTable(path);
  let checkedAt = clock.now();
  let reload: Promise<void> | undefined;

  async function recheck(): Promise<void> {
    try {
      const found = await fileVersion(path);
      if (found === version) return;
      version = found;
      table = await readTable(path);
      log.info({ path, users: table.names.size }, 'users read again');
    } catch (err) {
      log.error({ path, err }, 'users file not readable, the last good one stays in force');
    }
  }
  async function current(): Promise<Table> {
    if (clock.now() - checkedAt >= recheckMs) {
      checkedAt = clock.now();
      reload = recheck().finally(() => (reload = undefined));
    }
    await reload;
    return table;
  }
  return {
    findByName: async (name) => (await current()).names.get(name),
    findByDn: async (dn) => (await current()).dns.get(dnKey(dn)),
  };
}

async function readTable(path: string): Promise<Table> {
  const { users } = await loadConfig(path, UsersFile);
  return {
    names: new Map(users.map((user) => [user.name, user])),
    dns: new Map(users.map((user) => [dnKey(user.dn), user])),
  };
}

/** Changes whenever the content may have: editors replace files as often as they rewrite them. */
async function fileVersion(path: string): Promise<string> {
  try {
    const { mtimeMs, size, ino } = await stat(path);
    return `${mtimeMs} ${size} ${ino}`;
  } catch {
    return 'missing';
  }
}

export type NewUser = Omit<z.input<typeof UserEntry>, 'password'> & { password?: string };

/**
 * Adds a user to the file, which is made if there is none; comments in it survive.
 * @throws {@link UserError} `CONFLICT` if name or DN exists, `BAD_REQUEST` for anything not allowed
 */
export async function addUser(path: string, { password, ...user }: NewUser): Promise<User> {
  const entry = UserEntry.safeParse({
    ...user,
    ...(password !== undefined && { password: await hashPassword(password) }),
  });
  if (!entry.success) throw new UserError('BAD_REQUEST', describeIssues(entry.error));
  const document = await readDocument(path);
  const { users } = UsersFile.parse(document.toJS());
  const taken = users.find(
    ({ name, dn }) => name === entry.data.name || dnKey(dn) === dnKey(entry.data.dn),
  );
  if (taken) throw new UserError('CONFLICT', `user ${taken.name} exists`, { name: taken.name });
  if (users.length === 0) document.set('users', document.createNode([entry.data]));
  else document.addIn(['users'], document.createNode(entry.data));
  const temporary = `${path}.${randomBytes(6).toString('hex')}`;
  await writeFile(temporary, document.toString({ lineWidth: 0 }), { mode: 0o600, flag: 'wx' });
  await rename(temporary, path);
  return entry.data;
}

async function readDocument(path: string): Promise<Document> {
  try {
    return parseDocument(await readFile(path, 'utf8'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return parseDocument('users: []\n');
  }
}
