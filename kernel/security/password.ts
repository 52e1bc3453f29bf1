import {
  createHash,
  createHmac,
  randomBytes,
  scrypt,
  timingSafeEqual,
  type BinaryLike,
  type ScryptOptions,
} from 'node:crypto';
import { promisify } from 'node:util';
import { systemClock, type Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { BoundedMap } from './bounded-map.js';

export class PasswordError extends GridError<'SITE_UNAVAILABLE' | 'BAD_REQUEST'> {}

/**
 * `scrypt:<log2 N>:<r>:<p>:<salt>:<hash>`, the last two in base64url; or what UNICORE's password files have,
 * `md5:<salt>:<hash>` in hexadecimal digits, the hash made of salt and password.
 */
export const storedPasswordPattern =
  /^(?:scrypt:(1[0-9]|20):([1-9]|1[0-6]):([1-8]):([\w-]{16,64}):([\w-]{43})|md5:([^\0\r\n:]{0,64}):([0-9a-f]{32}))$/;

/** A form that is easy to guess from; the next login replaces it. */
export function isOutdated(stored: string): boolean {
  return stored.startsWith('md5:');
}

/** OWASP's advice for 32 MiB: N = 2^15, r = 8, p = 3. */
const cost = { log2N: 15, r: 8, p: 3 };
const hashBytes = 32;
/** The header that carries it has a limit anyway; this one keeps hashing cheap. */
const longestPasswordBytes = 1024;

const derive = promisify<BinaryLike, BinaryLike, number, ScryptOptions, Buffer>(scrypt);

/** @throws {@link PasswordError} `BAD_REQUEST` for an empty or overlong password */
export async function hashPassword(password: string): Promise<string> {
  const bytes = Buffer.byteLength(password);
  if (bytes === 0 || bytes > longestPasswordBytes) {
    throw new PasswordError('BAD_REQUEST', 'a password has 1 to 1024 bytes', { bytes });
  }
  const salt = randomBytes(16).toString('base64url');
  const { log2N, r, p } = cost;
  const hash = await deriveHash(password, salt, log2N, r, p);
  return ['scrypt', log2N, r, p, salt, hash.toString('base64url')].join(':');
}

async function matches(password: string, stored: string): Promise<boolean> {
  const [, log2N, r, p, salt, hash, oldSalt, oldHash] = storedPasswordPattern.exec(stored) ?? [];
  if (oldSalt !== undefined && oldHash !== undefined) {
    await matches(password, nobody); // takes as long as for everybody else
    const old = createHash('md5')
      .update(oldSalt + password)
      .digest();
    return timingSafeEqual(old, Buffer.from(oldHash, 'hex'));
  }
  if (salt === undefined || hash === undefined) return false;
  const expected = Buffer.from(hash, 'base64url');
  const actual = await deriveHash(password, salt, Number(log2N), Number(r), Number(p));
  return timingSafeEqual(actual, expected);
}

function deriveHash(
  password: string,
  salt: string,
  log2N: number,
  r: number,
  p: number,
): Promise<Buffer> {
  const N = 2 ** log2N;
  return derive(password, Buffer.from(salt, 'base64url'), hashBytes, {
    N,
    r,
    p,
    maxmem: 128 * r * (N + p + 2) * 2,
  });
}

/** Nobody's password: what an unknown user is compared with, so that he costs as much as a known one. */
const nobody = `scrypt:${cost.log2N}:${cost.r}:${cost.p}:${'A'.repeat(22)}:${'A'.repeat(43)}`;

export type PasswordCheckerOptions = {
  clock?: Clock;
  /** Computations at a time: each takes 32 MiB and a thread of the pool that files need too. */
  concurrency?: number;
  /** Computations that may wait; beyond them callers are told to come back. */
  queueLength?: number;
  /** How long a verified password is believed without another computation. */
  rememberMs?: number;
};

/** Compares passwords with their stored form, at a bounded price. */
export class PasswordChecker {
  readonly #clock: Clock;
  readonly #concurrency: number;
  readonly #queueLength: number;
  readonly #rememberMs: number;
  /** Known to this process alone: what the cache holds is of no use to anybody else. */
  readonly #secret = randomBytes(32);
  readonly #verified = new BoundedMap<string, number>(1_000);
  readonly #underWay = new Map<string, Promise<boolean>>();
  readonly #waiting: (() => void)[] = [];
  #running = 0;
  /** Computations made so far. */
  computed = 0;

  constructor(options: PasswordCheckerOptions = {}) {
    this.#clock = options.clock ?? systemClock;
    this.#concurrency = options.concurrency ?? 2;
    this.#queueLength = options.queueLength ?? 64;
    this.#rememberMs = options.rememberMs ?? 300_000;
  }

  /**
   * @param stored `undefined` for a user who does not exist or has no password
   * @throws {@link PasswordError} `SITE_UNAVAILABLE` when too many computations wait
   */
  async check(password: string, stored: string | undefined): Promise<boolean> {
    if (Buffer.byteLength(password) > longestPasswordBytes) return false;
    const key = createHmac('sha256', this.#secret)
      .update(`${stored ?? ''}\0${password}`)
      .digest('base64');
    const until = this.#verified.get(key);
    if (until !== undefined && this.#clock.now() < until) return true;
    let check = this.#underWay.get(key);
    if (!check) {
      check = this.#compute(password, stored).finally(() => this.#underWay.delete(key));
      this.#underWay.set(key, check);
    }
    const good = await check;
    if (good) this.#verified.set(key, this.#clock.now() + this.#rememberMs);
    return good;
  }

  async #compute(password: string, stored: string | undefined): Promise<boolean> {
    await this.#enter();
    try {
      this.computed++;
      return (await matches(password, stored ?? nobody)) && stored !== undefined;
    } finally {
      this.#leave();
    }
  }

  async #enter(): Promise<void> {
    if (this.#running < this.#concurrency) {
      this.#running++;
      return;
    }
    if (this.#waiting.length >= this.#queueLength) {
      throw new PasswordError('SITE_UNAVAILABLE', 'too many logins at once, try again');
    }
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** Hands the place to the next one in line. */
  #leave(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#running--;
  }
}
