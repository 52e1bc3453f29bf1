import {
  createHash,
  createPrivateKey,
  createPublicKey,
  sign,
  X509Certificate,
  type KeyObject,
} from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import {
  decodeEnrolmentMessage,
  isToken,
  signedText,
  type EnrolmentAnswer,
  type EnrolmentAsk,
  type EnrolmentGrant,
} from '../protocol/enrolment.js';
import { newMachineKey, signingRequest } from './machine-key.js';
import type { Settings } from './settings.js';

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
  answer(json: string): EnrolmentAnswer {
    const message = decodeEnrolmentMessage(json);
    if ('challenge' in message) return this.prove(message);
    this.#take(message);
    return {};
  }

  /** Does once what a proof takes, and keeps nothing of it: the next time takes an emulated machine far less. */
  rehearse(): void {
    signingRequest(newMachineKey().key, 'rehearsal');
  }

  /** @throws when the key cannot be kept */
  prove({ machine, challenge, ...ask }: EnrolmentAsk): EnrolmentAnswer {
    const held = this.#load();
    const isKnown = held?.machine === machine;
    if (isKnown && held.certificate !== undefined) {
      const signature = signed(createPrivateKey(held.key), machine, challenge);
      return { certificate: held.certificate, signature };
    }
    const token = ask.token ?? this.#findToken(ask.expects);
    const shown = token !== undefined && { token };
    if (isKnown) {
      // the certificate was lost on its way; the token is not everywhere to be found again
      const key = createPrivateKey(held.key);
      const signature = signed(key, machine, challenge);
      return { ...shown, signature, request: signingRequest(key, machine) };
    }
    if (!shown) return {};
    const { key, pem } = newMachineKey();
    // before the token is shown: it is good for this key only from then on
    this.#save({ machine, key: pem });
    return { ...shown, request: signingRequest(key, machine) };
  }

  #take({ machine, certificate, authority }: EnrolmentGrant): void {
    const held = this.#load();
    if (held?.machine !== machine) throw new Error('the certificate is for another machine');
    const { publicKey } = new X509Certificate(certificate);
    if (!publicKey.equals(createPublicKey(held.key)))
      throw new Error('the certificate is for another key');
    this.#save({ ...held, certificate, authority });
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
    if (!existsSync(this.#path)) return undefined;
    try {
      return JSON.parse(readFileSync(this.#path, 'utf8')) as Held; // our own file, root's only
    } catch {
      return undefined; // it went, or is of no use
    }
  }

  /** Without threads in between, which cost an emulated machine more than the file. */
  #save(held: Held): void {
    mkdirSync(dirname(this.#path), { recursive: true, mode: 0o700 });
    const draft = `${this.#path}.new`;
    rmSync(draft, { force: true });
    const fd = openSync(draft, 'wx', 0o600);
    try {
      writeFileSync(fd, JSON.stringify(held));
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(draft, this.#path);
  }
}

function signed(key: KeyObject, machine: string, challenge: string): string {
  const text = Buffer.from(signedText(machine, challenge));
  return sign(digestFor(key), text, key).toString('base64');
}

/** By earlier versions of the agent keys were made that sign digests. */
function digestFor({ asymmetricKeyType }: KeyObject): 'sha256' | null {
  return asymmetricKeyType === 'ed25519' ? null : 'sha256';
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
