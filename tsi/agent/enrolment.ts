import {
  createECDH,
  createHash,
  createPrivateKey,
  createPublicKey,
  sign,
  X509Certificate,
  type KeyObject,
} from 'node:crypto';
import { mkdirSync, openSync, closeSync, readFileSync, readSync, rmSync } from 'node:fs';
import { open, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  decodeEnrolmentMessage,
  isToken,
  signedText,
  type EnrolmentAnswer,
  type EnrolmentAsk,
  type EnrolmentGrant,
} from '../protocol/enrolment.js';
import type { Settings } from './settings.js';
import { signingRequest } from './signing-request.js';

/** By this word the server gives the token on the kernel's command line. */
const word = /(?:^|\s)vsite\.enrolment=(\S+)/;
/** A kernel takes no longer command line than this. */
const longestText = 4_096;

/** What the agent keeps of it, in one file so that its parts fit each other. */
type Held = {
  readonly machine: string;
  readonly key: string;
  readonly certificate?: string;
  readonly authority?: string;
};
/** What proves this machine to others: PEM. */
export type MachineCredential = { readonly key: string; readonly cert: string };

/** By which a machine proves that it is the one that its server has made (ADR 039). */
export class Enrolment {
  readonly #settings: Settings;
  readonly #path: string;

  constructor(settings: Settings) {
    this.#settings = settings;
    this.#path = join(settings.stateDir, 'enrolment.json');
  }

  /** `undefined`: it has none yet, or is another machine. */
  credentialOf(name: string): MachineCredential | undefined {
    const { machine, key, certificate: cert } = this.#load() ?? {};
    return machine === name && key !== undefined && cert !== undefined ? { key, cert } : undefined;
  }

  /** @throws `TSI_PROTOCOL`; or when it cannot be kept */
  async answer(json: string): Promise<EnrolmentAnswer> {
    const message = decodeEnrolmentMessage(json);
    if ('challenge' in message) return await this.#prove(message);
    await this.#take(message);
    return {};
  }

  /** Does once what a proof takes, and keeps nothing of it: the next time takes an emulated machine far less. */
  rehearse(): void {
    const key = newKey();
    signingRequest(key, 'rehearsal');
    sign('sha256', Buffer.from(signedText('rehearsal', '')), createPrivateKey(toPem(key)));
  }

  async #prove(ask: EnrolmentAsk): Promise<EnrolmentAnswer> {
    const { machine, challenge } = ask;
    const held = this.#load();
    if (held?.machine === machine && held.certificate !== undefined) {
      const text = Buffer.from(signedText(machine, challenge));
      const signature = sign('sha256', text, createPrivateKey(held.key)).toString('base64');
      return { certificate: held.certificate, signature };
    }
    const token = ask.token ?? this.#findToken(ask.expects);
    if (token === undefined) return {};
    const key = held?.machine === machine ? createPrivateKey(held.key) : newKey();
    // before the token is shown: it is good for this key only from then on
    if (held?.machine !== machine) await this.#save({ machine, key: toPem(key) });
    return { token, request: signingRequest(key, machine) };
  }

  async #take({ machine, certificate, authority }: EnrolmentGrant): Promise<void> {
    const held = this.#load();
    if (held?.machine !== machine) throw new Error('the certificate is for another machine');
    const { publicKey } = new X509Certificate(certificate);
    if (!publicKey.equals(createPublicKey(held.key)))
      throw new Error('the certificate is for another key');
    await this.#save({ ...held, certificate, authority });
    for (const path of this.#settings.enrolmentFiles) removeToken(path);
  }

  /** Among all that may lie around, of this machine or of one that it was made from. */
  #findToken(expects: string): string | undefined {
    const onCommandLine = word.exec(readText('/proc/cmdline'))?.[1];
    const inFiles = this.#settings.enrolmentFiles.map((path) => readText(path).trim());
    return [...inFiles, onCommandLine ?? ''].find(
      (text) => isToken(text) && createHash('sha256').update(text).digest('hex') === expects,
    );
  }

  #load(): Held | undefined {
    try {
      return JSON.parse(readFileSync(this.#path, 'utf8')) as Held; // our own file, root's only
    } catch {
      return undefined; // there is none
    }
  }

  async #save(held: Held): Promise<void> {
    mkdirSync(dirname(this.#path), { recursive: true, mode: 0o700 });
    const draft = `${this.#path}.new`;
    rmSync(draft, { force: true });
    await using file = await open(draft, 'wx', 0o600);
    await file.writeFile(JSON.stringify(held));
    await file.sync();
    await rename(draft, this.#path);
  }
}

/**
 * From the kernel's random numbers: those of our own generator are the same in all copies of a machine's memory
 * (ADR 035), the kernel's are not.
 */
function newKey(): KeyObject {
  const curve = createECDH('prime256v1');
  for (;;) {
    const secret = randomOfKernel(32);
    try {
      curve.setPrivateKey(secret);
    } catch {
      continue; // one in 2^32 is above the curve's order
    }
    const point = curve.getPublicKey();
    const [d, x, y] = [secret, point.subarray(1, 33), point.subarray(33)].map((part) =>
      part.toString('base64url'),
    );
    const key = { kty: 'EC', crv: 'P-256', d: d ?? '', x: x ?? '', y: y ?? '' };
    return createPrivateKey({ key, format: 'jwk' });
  }
}

function randomOfKernel(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  const fd = openSync('/dev/urandom', 'r');
  try {
    if (readSync(fd, bytes) !== length) throw new Error('/dev/urandom gave too little');
    return bytes;
  } finally {
    closeSync(fd);
  }
}

function toPem(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' }).toString();
}

/** It has been used: it is worth nothing, and is not to confuse anybody. */
function removeToken(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch {
    // where the host mounts it read-only, the host removes it
  }
}

function readText(path: string): string {
  const bytes = Buffer.alloc(longestText);
  let fd: number | undefined;
  try {
    fd = openSync(path, 'r');
    return bytes.subarray(0, readSync(fd, bytes)).toString('latin1');
  } catch {
    return ''; // there is none
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
