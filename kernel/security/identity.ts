/** What an authentication method found out. */
export type Identity = {
  /** As `formatDn` writes it. */
  readonly dn: string;
  readonly method?: AuthenticationMethod;
  /** The stored password that was matched: when it changes, sessions opened with it end. */
  readonly storedPassword?: string;
};

/** As clients are told. The consignor header has none in UNICORE; we say what it is. */
export type AuthenticationMethod = 'PASSWORD_FILE' | 'X509';
