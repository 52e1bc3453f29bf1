import type { Bss } from '../bss/bss.js';
import { NoBatch } from '../bss/nobatch.js';
import { Accounts } from './accounts.js';
import { Files } from './files.js';
import { createLog, type Log } from './log.js';
import { Scripts } from './scripts.js';
import type { Settings } from './settings.js';
import { Users } from './users.js';

/** What all workers share. */
export type Agent = {
  readonly settings: Settings;
  readonly log: Log;
  readonly users: Users;
  readonly files: Files;
  readonly scripts: Scripts;
  readonly bss: Bss;
};

export function createAgent(settings: Settings): Agent {
  const log = createLog(settings.debug);
  const accounts = new Accounts(settings.useIdCommand);
  const users = new Users(settings, accounts, log);
  return {
    settings,
    log,
    users,
    files: new Files(users, accounts),
    scripts: new Scripts(settings, users),
    bss: new NoBatch(
      {
        as: (owner, work) => users.as(owner, work),
        spawn: (owner, file, args, options) => users.spawn(owner, file, args, options),
      },
      settings.stateDir,
    ),
  };
}
