import { hkdfSync } from 'node:crypto';
import { EncryptJWT, jwtDecrypt } from 'jose';
import { z } from 'zod';
import type { Clock } from '#kernel/clock.js';
import { GatewayError } from '../reply.js';
import { Wish } from './wish.js';

/** A login under way at the provider: what its answer is checked with, and what the user wants then. */
const Login = z.object({
  wish: Wish,
  /** The provider that was asked: no other gets its code. */
  issuer: z.string(),
  /** Under which the user's browser knows us. */
  origin: z.string(),
  state: z.string(),
  nonce: z.string(),
  /** Of the proof that who brings the code is who asked for it (RFC 7636). */
  verifier: z.string(),
});
export type Login = z.output<typeof Login>;

/** Our origin only, by TLS only, for all paths (RFC 6265bis, 4.1.3.2). */
const name = '__Host-vsite-login';
const attributes = 'Path=/; Secure; HttpOnly; SameSite=Lax';
const lifetimeSeconds = 600;
/** Browsers keep 4096 bytes with name and attributes. */
const longest = 3_900;
const type = 'vsite-login+jwt';

/** Keeps logins under way in the browsers of those who log in: the gateway has nothing to remember. */
export class LoginCookie {
  readonly #key: Uint8Array;
  readonly #clock: Clock;

  /** @param secret all processes know it */
  constructor(secret: Buffer, clock: Clock) {
    this.#key = new Uint8Array(hkdfSync('sha256', secret, '', 'vsite login cookie', 32));
    this.#clock = clock;
  }

  /**
   * @returns the value of `Set-Cookie`. Encrypted, because browsers show it to every site behind this gateway.
   * @throws {@link GatewayError} `BAD_REQUEST` if it would be too long
   */
  async seal(login: Login): Promise<string> {
    const now = Math.floor(this.#clock.now() / 1_000);
    const sealed = await new EncryptJWT({ login })
      .setProtectedHeader({ alg: 'dir', enc: 'A256GCM', typ: type })
      .setExpirationTime(now + lifetimeSeconds)
      .encrypt(this.#key);
    if (sealed.length > longest)
      throw new GatewayError('BAD_REQUEST', 'site: choose fewer at a time');
    return `${name}=${sealed}; Max-Age=${lifetimeSeconds}; ${attributes}`;
  }

  /** @returns `undefined`: there is none, or it is over */
  async open(header: string | undefined): Promise<Login | undefined> {
    const sealed = header
      ?.split(';')
      .map((pair) => pair.trim())
      .find((pair) => pair.startsWith(`${name}=`))
      ?.slice(name.length + 1);
    if (sealed === undefined) return undefined;
    try {
      const { payload } = await jwtDecrypt(sealed, this.#key, {
        ...{
          typ: type,
          keyManagementAlgorithms: ['dir'],
          contentEncryptionAlgorithms: ['A256GCM'],
        },
        ...{ requiredClaims: ['exp'], currentDate: new Date(this.#clock.now()) },
      });
      return Login.parse(payload['login']);
    } catch {
      return undefined;
    }
  }

  /** The value of `Set-Cookie` that ends a login. */
  readonly ended = `${name}=; Max-Age=0; ${attributes}`;
}
