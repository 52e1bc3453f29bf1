import type { Bss, Host } from '../bss/bss.js';
import { createBss } from '../bss/adapters.js';
import { LoginNode } from '../bss/login-node.js';
import { Accounts } from './accounts.js';
import { Acl } from './acl.js';
import { Enrolment } from './enrolment.js';
import { Files } from './files.js';
import { createLog, type Log } from './log.js';
import { MachineSetupWork } from './machine-setup.js';
import { RequestBudget } from './request-budget.js';
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
  readonly loginNode: LoginNode;
  readonly acl: Acl;
  /** Absent: it is not to. */
  readonly enrolment?: Enrolment;
  /** Absent: it is not to. */
  readonly setup?: MachineSetupWork;
  readonly requests: RequestBudget;
};

export function createAgent(settings: Settings): Agent {
  const log = createLog(settings.debug);
  const accounts = new Accounts(settings.useIdCommand);
  const users = new Users(settings, accounts, log);
  const scripts = new Scripts(settings, users);
  const host: Host = {
    as: (owner, work) => users.as(owner, work),
    spawn: (owner, file, args, options) => users.spawn(owner, file, args, options),
  };
  const { stateDir, properties } = settings;
  return {
    settings,
    log,
    users,
    files: new Files(users, accounts),
    scripts,
    bss: createBss(settings.bss, { host, stateDir, properties }),
    loginNode: new LoginNode(host, stateDir),
    acl: new Acl(settings.acl, users),
    ...(settings.enrolment && { enrolment: new Enrolment(settings) }),
    ...(settings.setup && { setup: new MachineSetupWork({ settings, users }) }),
    requests: new RequestBudget(),
  };
}
