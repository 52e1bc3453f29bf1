import type { Preferences } from './preferences.js';

/** What an authentication method found out. */
export type Identity = {
  /** As `formatDn` writes it. */
  readonly dn: string;
  readonly method?: AuthenticationMethod;
  /** The stored password that was matched: when it changes, sessions opened with it end. */
  readonly storedPassword?: string;
  /** Fingerprint of a certificate that was shown to us: sessions opened by it are good where it is shown. */
  readonly certificate?: string;
  /** When the proof ends, and with it every session opened by it; ms since the epoch. */
  readonly untilMs?: number;
  /** Proved by a delegation token, of which another may be made or not. */
  readonly renewable?: boolean;
  /** Chosen by whoever issued the token: the bearer chooses nothing more. */
  readonly preferences?: Preferences;
  /** What the proof says of the user; role and login count if no attribute source knows him. */
  readonly claims?: {
    readonly role?: 'user';
    readonly login?: string;
    /** Groups at his identity provider. */
    readonly vos?: readonly string[];
  };
};

/** As clients are told. The consignor header has none in UNICORE; we say what it is. */
export type AuthenticationMethod = 'PASSWORD_FILE' | 'PAM' | 'X509' | 'ETD' | 'SSHKEY' | 'OAUTH';
