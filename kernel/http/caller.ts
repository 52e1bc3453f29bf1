/** UNICORE's roles; attribute sources may know more. */
export type Role =
  'user' | 'admin' | 'anonymous' | 'banned' | 'server' | (string & Record<never, never>);

/** Who sends a request, after authentication. */
export type Caller = {
  /** RFC 2253, without blanks after commas */
  readonly dn: string;
  readonly role: Role;
  /** the chosen local account */
  readonly login?: string;
  /** how the caller proved who they are: `X509`, `PASSWORD_FILE`, … */
  readonly method?: string;
};

/** A request without credentials (unicore-rest 2.1). */
export const anonymous: Caller = { dn: 'CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN', role: 'anonymous' };
