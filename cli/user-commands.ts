import { readFile } from 'node:fs/promises';
import { Option, type Command } from 'commander';
import { GridError } from '#kernel/errors.js';
import { createLog } from '#kernel/log.js';
import type { MappingTable } from '#kernel/security/attribute-table.js';
import { isJson, printJson } from './client/print.js';

const maxPasswordBytes = 1_024;

/** `vsite user …`: who may come in, and as what. */
export function addUserCommands(user: Command, input: AsyncIterable<Buffer> = process.stdin): void {
  const users = new Option('--users <file>', 'users.yaml of the installation');
  users.makeOptionMandatory();
  user
    .command('add <name>')
    .description('add a user; the password is read from standard input')
    .addOption(users)
    .requiredOption('--dn <dn>', 'distinguished name, such as CN=Alice,O=Grid,C=EU')
    .addOption(new Option('--role <role>').choices(['user', 'admin']).default('user'))
    .option('--login <account>', 'local account')
    .action(async (name: string, options: NewUserOptions, command: Command) => {
      const { addUser } = await import('#kernel/security/users.js');
      const { users: file, ...rest } = options;
      const password = (await readPassword(input)).replace(/\r?\n$/, '');
      await addUser(file, { name, ...rest, ...(password !== '' && { password }) });
      ifJson(command, { added: [name] });
    });
  user
    .command('import <file>')
    .description("add the users of UNICORE's password file, lines of user:hash:salt:DN")
    .addOption(users)
    .action(async (file: string, options: { users: string }, command: Command) => {
      const { addUser, parsePasswordLine } = await import('#kernel/security/users.js');
      const lines = (await readFile(file, 'utf8')).split('\n');
      const entries = lines.filter((line) => /^\s*[^#\s]/.test(line)).map(parsePasswordLine);
      for (const entry of entries) await addUser(options.users, entry);
      ifJson(command, { added: entries.map(({ name }) => name) });
    });
  addMapCommands(user.command('map').description('what users are here: the table of names'));
}

type NewUserOptions = { users: string; dn: string; role: 'user' | 'admin'; login?: string };
type DatabaseOptions = { database: string; passwordFile?: string };
type NewMappingOptions = DatabaseOptions & {
  role?: string;
  login?: string[];
  group?: string[];
  queue?: string[];
};

function addMapCommands(map: Command): void {
  const withDatabase = (command: Command): Command =>
    command
      .requiredOption('--database <url>', 'as under attributes.sources, sqlite:/path/users.sqlite')
      .option('--password-file <file>', "the database's");
  withDatabase(map.command('add <dn>'))
    .description('say what a user is, or all whose name fits a pattern: CN=*,O=Physics,C=EU')
    .option('--role <role>', 'user, admin, banned, …')
    .option('--login <accounts...>', 'the first is the default')
    .option('--group <groups...>', 'the first is the default')
    .option('--queue <queues...>', 'the only ones that may be used')
    .action(async (dn: string, options: NewMappingOptions, command: Command) => {
      const { role, login, group, queue, ...rest } = options;
      await withTable(rest, (table) =>
        table.add({
          dn,
          ...(role !== undefined && { role }),
          ...(login && { logins: login }),
          ...(group && { groups: group }),
          ...(queue && { queues: queue }),
        }),
      );
      ifJson(command, { added: [dn] });
    });
  withDatabase(map.command('list'))
    .description('the names in the table, the oldest first')
    .action(async (options: DatabaseOptions, command: Command) => {
      const mappings = await withTable(options, (table) => table.list());
      if (isJson(command)) printJson(mappings);
      else for (const mapping of mappings) process.stdout.write(`${JSON.stringify(mapping)}\n`);
    });
  withDatabase(map.command('remove <dn>'))
    .description('forget a name or a pattern')
    .action(async (dn: string, options: DatabaseOptions, command: Command) => {
      await withTable(options, (table) => table.remove(dn));
      ifJson(command, { deleted: [dn] });
    });
}

/** What people need not be told. */
function ifJson(command: Command, result: object): void {
  if (isJson(command)) printJson(result);
}

async function withTable<T>(
  { database: url, passwordFile }: DatabaseOptions,
  work: (table: MappingTable) => Promise<T>,
): Promise<T> {
  const { openDatabase } = await import('#kernel/persistence/database.js');
  const { migrate } = await import('#kernel/persistence/migrate.js');
  const { createMappingTable, mappingMigrations } =
    await import('#kernel/security/attribute-table.js');
  const password = passwordFile && (await readFile(passwordFile, 'utf8')).split('\n')[0];
  const log = createLog({ level: 'warn' });
  await using database = await openDatabase({ url, password, log });
  await migrate(database, 'users', mappingMigrations, log);
  return await work(createMappingTable(database));
}

/** @throws `BAD_REQUEST` it is longer than any password: probably another file */
async function readPassword(input: AsyncIterable<Buffer>): Promise<string> {
  let bytes = Buffer.alloc(0);
  for await (const chunk of input) {
    bytes = Buffer.concat([bytes, chunk]);
    if (bytes.length > maxPasswordBytes)
      throw new GridError('BAD_REQUEST', `the password has more than ${maxPasswordBytes} bytes`);
  }
  return bytes.toString('utf8');
}
