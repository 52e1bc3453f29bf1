import type { AuthenticationMethod } from './identity.js';

/** `anonymous`: known to nobody here, be it without credentials or with a stranger's certificate. */
export type Role = 'user' | 'admin' | 'anonymous';

/** Who asks, with what he may be and what he chose to be. */
export type Caller = {
  readonly dn: string;
  readonly role: Role;
  readonly roles: readonly Role[];
  readonly login?: string;
  readonly logins: readonly string[];
  readonly group?: string;
  readonly groups: readonly string[];
  readonly supplementaryGroups: readonly string[];
  readonly authenticationMethod?: AuthenticationMethod;
  /** The client's address. */
  readonly peer: string;
};
