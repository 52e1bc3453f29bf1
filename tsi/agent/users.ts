import { spawn, type ChildProcess, type SpawnOptions } from 'node:child_process';
import { existsSync } from 'node:fs';
import { userInfo } from 'node:os';
import { TsiError } from '../protocol/error.js';
import type { Identity } from '../protocol/message.js';
import type { Accounts } from './accounts.js';
import type { Log } from './log.js';
import type { Settings } from './settings.js';

/** Whom a command runs as; `groups` holds `gid` and the supplementary groups. */
export type User = {
  readonly login: string;
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  readonly home: string;
};

/** Who is asked for, and acting as them (docs/adr/005). */
export class Users {
  readonly #settings: Settings;
  readonly #accounts: Accounts;
  readonly #log: Log;
  readonly #setpriv = ['/usr/bin/setpriv', '/bin/setpriv'].find((path) => existsSync(path));
  /** Whose groups the process has. They do no harm to root, and each change signals all threads. */
  #grouped = '';

  constructor(settings: Settings, accounts: Accounts, log: Log) {
    this.#settings = settings;
    this.#accounts = accounts;
    this.#log = log;
    if (settings.switchUid && this.#setpriv === undefined)
      log.warn({}, 'no setpriv in this system: programs get no supplementary groups');
  }

  /** @throws {@link TsiError} `TSI_FAILED` for nobody, the unknown and root */
  async resolve(identity: Identity | undefined): Promise<User> {
    if (!this.#settings.switchUid) return ownUser();
    if (!identity) fail('No user/group info given');
    const account = await this.#accounts.find(identity.login);
    if (!account) fail(`Unknown user ${identity.login}`);
    if (account.uid === 0 || account.gid === 0) fail('Nothing is run as root');
    const words = identity.groups.split(':');
    if (words[0] === 'NONE') return { ...account, groups: withoutRoot(account.groups) };
    const [first = 'DEFAULT_GID'] = words;
    const gid = (await this.#group(first, account.groups)) ?? account.gid;
    const groups = [gid];
    for (const word of words)
      if (word === 'DEFAULT_GID') groups.push(...account.groups);
      else groups.push((await this.#group(word, account.groups)) ?? gid);
    return { ...account, gid, groups: withoutRoot(groups) };
  }

  /** A group that was asked for, if the user may have it. Never the one of root. */
  async #group(name: string, own: readonly number[]): Promise<number | undefined> {
    if (name === 'DEFAULT_GID') return undefined;
    const gid = await this.#accounts.groupId(name);
    if (gid !== undefined && gid > 0 && (own.includes(gid) || !this.#settings.enforceOsGids))
      return gid;
    if (this.#settings.failOnInvalidGids) fail(`Group ${name} is not available`);
    this.#log.warn({ group: name }, 'a group that the user does not have is left out');
    return undefined;
  }

  /**
   * Runs `work` with the user's effective ids. It must be synchronous: the ids are the whole process'.
   * Opened files stay open for asynchronous work afterwards.
   */
  as<T>(user: User, work: () => T): T {
    if (!this.#settings.switchUid) return work();
    try {
      this.#takeGroups(user);
      process.seteuid?.(user.uid);
      return work();
    } finally {
      this.#restore();
    }
  }

  #takeGroups({ gid, groups }: User): void {
    const wanted = `${gid}:${groups.join()}`;
    if (this.#grouped === wanted) return;
    this.#grouped = '';
    process.setgroups?.([...groups]);
    process.setegid?.(gid);
    this.#grouped = wanted;
  }

  #restore(): void {
    try {
      process.seteuid?.(0);
    } catch (error) {
      // to go on as a user would serve others wrongly
      this.#log.error({ err: String(error) }, 'the agent cannot get its own id back');
      process.abort();
    }
  }

  /** Starts a program as the user, in a clean environment and a session of its own. */
  spawn(user: User, file: string, args: readonly string[], options: SpawnOptions): ChildProcess {
    const settled = { ...options, env: this.#environment(user), detached: true };
    if (!this.#settings.switchUid) return spawn(file, args, settled);
    const others = user.groups.filter((gid) => gid !== user.gid);
    if (others.length === 0 || this.#setpriv === undefined)
      return spawn(file, args, { ...settled, uid: user.uid, gid: user.gid });
    const ids = [`--reuid=${user.uid}`, `--regid=${user.gid}`, `--groups=${user.groups.join()}`];
    return spawn(this.#setpriv, [...ids, '--', file, ...args], settled);
  }

  #environment(user: User): NodeJS.ProcessEnv {
    const kept = ['LANG', 'TZ'].flatMap((name) => {
      const value = process.env[name];
      return value === undefined ? [] : [[name, value] as const];
    });
    return {
      ...Object.fromEntries(kept),
      PATH: this.#settings.path,
      HOME: user.home,
      USER: user.login,
      LOGNAME: user.login,
      SHELL: '/bin/bash',
    };
  }
}

function withoutRoot(groups: readonly number[]): number[] {
  return [...new Set(groups)].filter((gid) => gid !== 0);
}

function ownUser(): User {
  const { username, uid, gid, homedir } = userInfo();
  return { login: username, uid, gid, groups: process.getgroups?.() ?? [gid], home: homedir };
}

function fail(text: string): never {
  throw new TsiError('TSI_FAILED', text);
}
