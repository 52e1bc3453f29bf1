import { TsiError } from '../protocol/error.js';
import { filterAcl, type AclCommand, type AclSpec } from '../protocol/acl.js';
import { isWithin } from './paths.js';
import { runProgram } from './programs.js';
import type { AclKind, AclSettings } from './settings.js';
import type { User, Users } from './users.js';

/** Access control lists of files, by the programs that the system has for them (§2.10). */
export class Acl {
  readonly #settings: AclSettings;
  readonly #users: Users;

  constructor(settings: AclSettings, users: Users) {
    this.#settings = settings;
    this.#users = users;
  }

  /** The rule of the nearest directory that has one. Of NFS lists nobody knows the programs. */
  supports(path: string): boolean {
    let found: readonly [string, AclKind] = ['', 'NONE'];
    for (const rule of this.#settings.rules)
      if (isWithin(rule[0], path) && rule[0].length >= found[0].length) found = rule;
    return found[1] === 'POSIX';
  }

  async get(user: User, path: string): Promise<string> {
    this.#check(path);
    return filterAcl(await this.#run(user, this.#settings.getfacl, ['--', path]));
  }

  async set(
    user: User,
    path: string,
    { command, recursive }: AclCommand,
    spec: AclSpec | undefined,
  ): Promise<void> {
    this.#check(path);
    const change = command === 'RM_ALL' ? ['-b'] : entryArguments(command, spec);
    const args = [...(recursive ? ['-R'] : []), ...change, '--', path];
    await this.#run(user, this.#settings.setfacl, args);
  }

  #check(path: string): void {
    if (!this.supports(path))
      throw new TsiError(
        'TSI_FAILED',
        'access control lists are not supported on this file system',
      );
  }

  async #run(user: User, configured: string, args: readonly string[]): Promise<string> {
    const [file = '', ...fixed] = configured.split(/\s+/);
    return runProgram(this.#users, user, file, [...fixed, ...args]);
  }
}

function entryArguments(command: 'MODIFY' | 'RM', spec: AclSpec | undefined): string[] {
  if (!spec) throw new TsiError('TSI_FAILED', '#TSI_ACL_COMMAND_SPEC is missing');
  const inherited = spec.isDefault ? ['-d'] : [];
  const who = `${spec.type}:${spec.subject}`;
  if (command === 'RM') return [...inherited, '-x', who];
  if (spec.permissions === undefined)
    throw new TsiError('TSI_FAILED', '#TSI_ACL_COMMAND_SPEC has no rights');
  return [...inherited, '-m', `${who}:${spec.permissions}`];
}
