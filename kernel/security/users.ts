import { randomBytes } from 'node:crypto';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { lock } from 'proper-lockfile';
import { parseDocument, type Document } from 'yaml';
import { z } from 'zod';
import { describeIssues, loadConfig } from '#kernel/config.js';
import { errorText, GridError } from '#kernel/errors.js';
import { account } from './account.js';
import { dnKey, normalizeDn } from './dn.js';
import { hashPassword, storedPasswordPattern } from './password.js';
import { readSshKey } from './ssh-key.js';
import { watchFile, type WatchOptions } from './watched-file.js';

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

const UserEntry = z.strictObject({
  /** What the user types; no colon, which ends it in a login. */
  name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$/, 'must be a user name'),
  dn,
  /** As `vsite user add` writes it, or UNICORE's, `md5:salt:hash`. Without one he comes with a certificate. */
  password: z.string().regex(storedPasswordPattern, 'must be scrypt:… or md5:…').optional(),
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
  /**
   * Stores another form of the same password.
   * @returns whether that was done: not, if the password has been changed meanwhile
   */
  replacePassword(name: string, before: string, after: string): Promise<boolean>;
};

type Table = { readonly names: ReadonlyMap<string, User>; readonly dns: ReadonlyMap<string, User> };

/**
 * The users of a YAML file. A change counts within `recheckMs`; while the file is missing or wrong,
 * what it last said stays in force.
 * @throws {@link ConfigError} `CONFIG_INVALID` when the first reading fails
 */
export async function openUsers(path: string, options: WatchOptions): Promise<Users> {
  const file = await watchFile(path, readTable, options);
  return {
    findByName: async (name) => (await file.current()).names.get(name),
    findByDn: async (dn) => (await file.current()).dns.get(dnKey(dn)),
    async replacePassword(name, before, after) {
      const done = await changeFile(path, (document, users) => {
        const at = users.findIndex((user) => user.name === name);
        if (at < 0 || users[at]?.password !== before) return false;
        document.setIn(['users', at, 'password'], after);
        return true;
      });
      await file.reload();
      return done;
    },
  };
}

async function readTable(path: string): Promise<Table> {
  const { users } = await loadConfig(path, UsersFile);
  return {
    names: new Map(users.map((user) => [user.name, user])),
    dns: new Map(users.map((user) => [dnKey(user.dn), user])),
  };
}

export type NewUser = Omit<z.input<typeof UserEntry>, 'password'> & {
  password?: string;
  /** In place of a password: its stored form from elsewhere. */
  storedPassword?: string;
};

/**
 * Adds a user to the file, which is made if there is none; comments in it survive.
 * @throws {@link UserError} `CONFLICT` if name or DN exists, `BAD_REQUEST` for anything not allowed
 */
export async function addUser(
  path: string,
  { password, storedPassword, ...user }: NewUser,
): Promise<User> {
  const stored = password === undefined ? storedPassword : await hashPassword(password);
  const entry = UserEntry.safeParse({ ...user, ...(stored !== undefined && { password: stored }) });
  if (!entry.success) throw new UserError('BAD_REQUEST', describeIssues(entry.error));
  await changeFile(path, (document, users) => {
    const taken = users.find(
      ({ name, dn }) => name === entry.data.name || dnKey(dn) === dnKey(entry.data.dn),
    );
    if (taken) throw new UserError('CONFLICT', `user ${taken.name} exists`, { name: taken.name });
    if (users.length === 0) document.set('users', document.createNode([entry.data]));
    else document.addIn(['users'], document.createNode(entry.data));
    return true;
  });
  return entry.data;
}

/** `user:hash:salt:DN`, a line of UNICORE's password file. @throws {@link UserError} `BAD_REQUEST` */
export function parsePasswordLine(line: string): NewUser {
  const [, name, hash, salt, dn] =
    /^([^:]+):([0-9a-fA-F]{32}):([^:]*):(.+)$/.exec(line.trim()) ?? [];
  if (name === undefined || hash === undefined || salt === undefined || dn === undefined)
    throw new UserError('BAD_REQUEST', 'a line must be user:hash:salt:DN');
  return { name, dn, storedPassword: `md5:${salt}:${hash.toLowerCase()}` };
}

/**
 * Changes the file, alone among all processes; readers see the old file or the new one.
 * @param change says whether there is anything to write
 */
async function changeFile(
  path: string,
  change: (document: Document, users: readonly User[]) => boolean,
): Promise<boolean> {
  const retries = { retries: 50, minTimeout: 20, maxTimeout: 200 };
  const release = await lock(path, { realpath: false, stale: 10_000, retries });
  try {
    const document = await readDocument(path);
    const { users } = UsersFile.parse(document.toJS());
    if (!change(document, users)) return false;
    const temporary = `${path}.${randomBytes(6).toString('hex')}`;
    await writeFile(temporary, document.toString({ lineWidth: 0 }), {
      mode: 0o600,
      flag: 'wx',
      flush: true,
    });
    await rename(temporary, path);
    return true;
  } finally {
    await release();
  }
}

async function readDocument(path: string): Promise<Document> {
  try {
    return parseDocument(await readFile(path, 'utf8'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return parseDocument('users: []\n');
  }
}
