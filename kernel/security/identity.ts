/** What an authentication method found out. */
export type Identity = {
  /** As {@link formatDn} writes it. */
  readonly dn: string;
  readonly method?: AuthenticationMethod;
  /** The stored password that was matched: when it changes, sessions opened with it end. */
  readonly storedPassword?: string;
};

export type AuthenticationMethod = 'PASSWORD_FILE';

export const anonymous: Identity = { dn: 'CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN' };
