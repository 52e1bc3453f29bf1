import type { Caller, Role } from '#kernel/http/caller.js';
import type { AuthenticationMethod } from './identity.js';
import type { Preferences } from './preferences.js';

/** What a caller may choose among, and what he chose. */
export type Attributes = {
  readonly roles: readonly string[];
  readonly logins: readonly string[];
  readonly groups: readonly string[];
  /** The primary group. */
  readonly group?: string;
  readonly supplementaryGroups: readonly string[];
  /** Virtual organisations that he belongs to. */
  readonly vos: readonly string[];
  /** Partitions that he may use; absent: all. */
  readonly queues?: readonly string[];
  readonly queue?: string;
};

/** A caller as the authenticator makes him. */
export type AuthenticatedCaller = Caller & {
  /** `anonymous`: known to nobody here, be it without credentials or with a stranger's certificate. */
  readonly role: Role;
  readonly method?: AuthenticationMethod;
  /** Came with a delegation token, of which another may be made or not. */
  readonly renewable?: boolean;
  /** What he has asked for himself. */
  readonly preferences: Preferences;
  readonly attributes: Attributes;
  /** The client's address. */
  readonly peer: string;
};

/** For those who meet callers that may have been made otherwise (tests, internal calls). */
export function attributesOf(caller: Caller): Attributes {
  if ('attributes' in caller) return (caller as AuthenticatedCaller).attributes;
  const logins = caller.login === undefined ? [] : [caller.login];
  return { roles: [caller.role], logins, groups: [], supplementaryGroups: [], vos: [] };
}

/** The virtual organisation as whose member he chose to come. */
export function chosenVo(caller: Caller): string | undefined {
  return 'preferences' in caller ? (caller as AuthenticatedCaller).preferences.vo : undefined;
}
