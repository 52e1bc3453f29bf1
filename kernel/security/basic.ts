import { errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { Method } from './authenticate.js';
import { hashPassword, isOutdated, type PasswordChecker } from './password.js';
import type { PasswordBackend } from './password-backend.js';
import type { User, Users } from './users.js';

export type BasicDeps = {
  readonly users: Users;
  readonly passwords: PasswordChecker;
  /** Asked in their order about users who have no password in the users file. */
  readonly backends: readonly PasswordBackend[];
  readonly log: Log;
};

/** User name and password (unicore-rest 2.2). */
export function basicMethod({ users, passwords, backends, log }: BasicDeps): Method {
  return async ({ headers: { authorization } }) => {
    const encoded = /^basic +([A-Za-z0-9+/=_-]+) *$/i.exec(authorization ?? '')?.[1];
    if (encoded === undefined) return undefined;
    const text = Buffer.from(encoded, 'base64').toString('utf8');
    const colon = text.indexOf(':');
    if (colon < 0) throw wrongCredentials();
    const [name, password] = [text.slice(0, colon), text.slice(colon + 1)];
    const user = await users.findByName(name);
    if (user?.password === undefined) {
      for (const check of backends) {
        const identity = await check(name, password);
        if (identity) return identity;
      }
    }
    // An unknown user costs what a wrong password costs
    const good = await passwords.check(password, user?.password);
    if (!good || user?.password === undefined) throw wrongCredentials({ user: user?.name });
    const storedPassword = await renewed(user, user.password, password);
    return { dn: user.dn, method: 'PASSWORD_FILE', storedPassword };
  };

  /** Passwords in UNICORE's form are stored anew by the first who knows them. */
  async function renewed({ name }: User, stored: string, password: string): Promise<string> {
    if (!isOutdated(stored)) return stored;
    try {
      const better = await hashPassword(password);
      if (!(await users.replacePassword(name, stored, better))) return stored;
      log.info({ user: name }, 'password stored in its new form');
      return better;
    } catch (error) {
      log.warn({ user: name, reason: errorText(error) }, 'password stays in its old form');
      return stored;
    }
  }
}

/** The same words whatever was wrong. */
export function wrongCredentials(details: Readonly<Record<string, unknown>> = {}): GridError {
  return new GridError('UNAUTHENTICATED', 'credentials not accepted', details);
}
