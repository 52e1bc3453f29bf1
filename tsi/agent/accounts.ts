import { execFile } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { promisify } from 'node:util';

export type Account = {
  readonly login: string;
  readonly uid: number;
  readonly gid: number;
  /** All groups the system gives, `gid` among them. */
  readonly groups: readonly number[];
  readonly home: string;
};

const run = promisify(execFile);
const cacheMs = 600_000;

/** `/etc/passwd` and `/etc/group`, and the name service (`getent`, `id`) for whom they do not hold. */
export class Accounts {
  readonly #useIdCommand: boolean;
  readonly #passwd = new Table('/etc/passwd', 7);
  readonly #group = new Table('/etc/group', 4);
  readonly #remote = new Map<string, { readonly account: Account; readonly untilMs: number }>();

  constructor(useIdCommand: boolean) {
    this.#useIdCommand = useIdCommand;
  }

  async find(login: string): Promise<Account | undefined> {
    if (!/^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,254}$/.test(login)) return undefined;
    const row = this.#passwd.byName(login);
    if (row && !this.#useIdCommand) return toAccount(row, this.#localGroups(login));
    const cached = this.#remote.get(login);
    if (cached && cached.untilMs > Date.now()) return cached.account;
    const account = await this.#ask(login, row);
    if (account) this.#remote.set(login, { account, untilMs: Date.now() + cacheMs });
    return account;
  }

  async groupId(name: string): Promise<number | undefined> {
    if (!/^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,254}$/.test(name)) return undefined;
    const row = this.#group.byName(name) ?? (await askRow('group', name));
    return row && Number(row[2]);
  }

  /** The name, or the number where there is none. */
  userName(uid: number): string {
    return this.#passwd.byId(uid) ?? String(uid);
  }

  groupName(gid: number): string {
    return this.#group.byId(gid) ?? String(gid);
  }

  #localGroups(login: string): number[] {
    return this.#group
      .rows()
      .filter(([, , , members = '']) => members.split(',').includes(login))
      .map(([, , gid]) => Number(gid));
  }

  async #ask(login: string, local: readonly string[] | undefined): Promise<Account | undefined> {
    const row = local ?? (await askRow('passwd', login));
    if (!row) return undefined;
    const { stdout } = await run('id', ['-G', '--', login]);
    return toAccount(row, stdout.trim().split(' ').map(Number));
  }
}

async function askRow(table: string, name: string): Promise<string[] | undefined> {
  try {
    const { stdout } = await run('getent', [table, name]);
    const row = stdout.trim().split(':');
    return row[0] === name ? row : undefined;
  } catch {
    return undefined; // not there, or no name service: unknown either way
  }
}

function toAccount(row: readonly string[], groups: readonly number[]): Account {
  const [login = '', , uid, gid, , home = '/'] = row;
  return {
    login,
    uid: Number(uid),
    gid: Number(gid),
    groups: [...new Set([Number(gid), ...groups])],
    home: home || '/',
  };
}

/** A colon-separated file of the system, read again when it has changed. */
class Table {
  readonly #file: string;
  readonly #columns: number;
  #version = '';
  #rows: string[][] = [];
  #names = new Map<number, string>();

  constructor(file: string, columns: number) {
    this.#file = file;
    this.#columns = columns;
  }

  rows(): readonly (readonly string[])[] {
    const { mtimeMs, ino, size } = statSync(this.#file);
    const version = `${mtimeMs} ${ino} ${size}`;
    if (version !== this.#version) {
      this.#rows = readFileSync(this.#file, 'utf8')
        .split('\n')
        .map((line) => line.split(':'))
        .filter((row) => row.length >= this.#columns);
      this.#names = new Map(
        this.#rows.map(([name = '', , id]) => [Number(id), name] as const).reverse(),
      );
      this.#version = version;
    }
    return this.#rows;
  }

  byName(name: string): readonly string[] | undefined {
    return this.rows().find((row) => row[0] === name);
  }

  byId(id: number): string | undefined {
    this.rows();
    return this.#names.get(id);
  }
}
