import { createHash, randomBytes, timingSafeEqual, verify, X509Certificate } from 'node:crypto';
import type { Clock } from '#kernel/clock.js';
import { GridError, errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { Audit } from '#kernel/security/audit.js';
import { readSigningRequest } from '#kernel/security/signing-request.js';
import { signedText, type EnrolmentAnswer } from '#tsi/protocol/enrolment.js';
import type { AskEnrolment } from '../../tsi/agent-link.js';
import type { MachinePeer } from '../../tsi/callback-transport.js';
import type { SystemRecords } from '../system-records.js';
import type { TargetSystem } from '../target-system.js';
import { isBooted, needsIdentity } from '../tiers/identity.js';
import { machineName, type MachineAuthority } from './machine-authority.js';

/** How a machine comes by its token. `message`: over the hypervisor's channel, from us. */
export type TokenMeans = 'commandLine' | 'seed' | 'file' | 'message';

/** The durable part: of one machine of a target system. */
export type EnrolmentRecord = {
  readonly means: TokenMeans;
  /** Of the machine: one that is put back to a snapshot is who it was then. */
  readonly generation: number;
  /** SHA-256, hexadecimal. */
  readonly tokenHash: string;
  /** ms since the epoch */
  readonly issuedMs: number;
  /** SHA-256 of the public key that the token was used for; absent: it was not used yet. */
  readonly keyHash?: string;
  readonly usedMs?: number;
  /** Of its certificate. */
  readonly expiresMs?: number;
};

export type EnrolmentConfig = {
  readonly authority: MachineAuthority;
  /** How long a token is good for. */
  readonly tokenMs: number;
  readonly audit?: Audit;
};

export type EnrolmentsOptions = EnrolmentConfig & {
  readonly records: Pick<SystemRecords, 'find' | 'queue' | 'save' | 'applyNow'>;
  /** The token lies there no longer than it is needed. */
  readonly forgetToken: (record: TargetSystem) => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
};

const anotherMachine = 'it shows the certificate of another machine';
const anotherKey = 'it shows a certificate for another key than the one that was enrolled';
/** Whoever tries again and again is not written down each time. */
const toldAgainMs = 60_000;

/**
 * Which machine it is that answers as the agent of a target system (ADR 039). Each gets a token that is good
 * once, for one key; with that it proves itself from then on.
 */
export class Enrolments {
  readonly #options: EnrolmentsOptions;
  readonly #log: Log;
  readonly #told = new Map<string, { readonly reason: string; readonly atMs: number }>();

  constructor(options: EnrolmentsOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm.enrolment' });
  }

  /**
   * That somebody was connected to says nothing yet of who it is.
   * @throws `FORBIDDEN` it is not the machine; what `ask` does
   */
  async admit(id: string, ask: AskEnrolment): Promise<void> {
    const record = this.#options.records.find(id);
    // nobody's yet; or it is to become another one first, its random numbers with it
    if (!record || needsIdentity(record)) return;
    try {
      await this.#prove(record, ask);
      this.#told.delete(id);
    } catch (error) {
      if (error instanceof Refusal) await this.#tell(record, error.message);
      throw error;
    }
  }

  /**
   * What such a machine shows from then on where its TSI is reached over a network; `undefined`: it has not
   * proved itself yet. As long as its key is known its certificate counts, even after its time.
   */
  peerOf(id: string): MachinePeer | undefined {
    const record = this.#options.records.find(id);
    const pinned = record?.enrolment?.keyHash;
    if (!record || pinned === undefined) return undefined;
    const name = nameOf(record);
    return {
      name,
      require: (certificate) => {
        if (!certificate || !this.#options.authority.hasSigned(certificate, name))
          throw new Refusal(anotherMachine);
        if (keyHashOf(certificate) !== pinned) throw new Refusal(anotherKey);
      },
    };
  }

  isDueOf(id: string): boolean {
    const record = this.#options.records.find(id);
    return record !== undefined && this.isDue(record);
  }

  /** Whose certificate has to be renewed soon. */
  isDue({ enrolment }: TargetSystem): boolean {
    const { usedMs, expiresMs } = enrolment ?? {};
    if (usedMs === undefined || expiresMs === undefined) return false;
    return expiresMs - this.#options.clock.now() < this.#options.authority.validMs / 2;
  }

  async #prove(record: TargetSystem, ask: AskEnrolment): Promise<void> {
    const { id, enrolment, image } = record;
    const isByMessage = meansOf(record) === 'message' && enrolment?.keyHash === undefined;
    // made by an earlier version of this server, or found again: the hypervisor's word is all there is
    if (!enrolment && !isByMessage) return;
    const machine = nameOf(record);
    const challenge = randomBytes(32).toString('base64');
    const question = { machine, challenge };
    let answer = enrolment && (await ask({ ...question, expects: enrolment.tokenHash }));
    if (isByMessage && (!enrolment || (answer && answer.certificate === undefined))) {
      const token = newToken();
      await this.#note(id, token);
      answer = await ask({ ...question, expects: hashOf(token), token });
    }
    if (!answer) {
      const isRequired = image.metadata.contextualisation?.enrolment === 'required';
      if (enrolment?.keyHash === undefined && !isRequired) return;
      throw new Refusal('its agent cannot prove which machine it is');
    }
    const certificate = answer.certificate
      ? await this.#check(id, machine, challenge, answer)
      : await this.#enrol(id, machine, answer);
    if (certificate === undefined) return;
    const { authority } = this.#options;
    const granted = await ask({ machine, certificate, authority: authority.certificate });
    if (!granted) throw new GridError('TSI_UNAVAILABLE', 'its agent takes no certificate');
    await this.#options.forgetToken(record);
  }

  /** Of a machine that has no other way to get it than over its own channel. */
  async #note(id: string, token: string): Promise<void> {
    const { records } = this.#options;
    await records.queue(id, async () => {
      const record = records.find(id);
      if (record) await records.save({ ...record, enrolment: this.issue(record, token) });
    });
  }

  /** What the record says of a token, before anybody gets it. */
  issue(record: TargetSystem, token: string): EnrolmentRecord {
    const { generation = 1 } = record;
    const means = meansOf(record) ?? 'message';
    return { means, generation, tokenHash: hashOf(token), issuedMs: this.#options.clock.now() };
  }

  /** @returns a new certificate, where there should be one */
  async #check(
    id: string,
    machine: string,
    challenge: string,
    { certificate = '', signature = '' }: EnrolmentAnswer,
  ): Promise<string | undefined> {
    const shown = readCertificate(certificate);
    const { authority, records, clock } = this.#options;
    if (!authority.hasSigned(shown, machine)) throw new Refusal(anotherMachine);
    const text = Buffer.from(signedText(machine, challenge));
    if (!verify('sha256', text, shown.publicKey, Buffer.from(signature, 'base64')))
      throw new Refusal('it does not have the key of the certificate that it shows');
    const enrolment = records.find(id)?.enrolment;
    const keyHash = keyHashOf(shown);
    if (enrolment?.keyHash !== undefined && enrolment.keyHash !== keyHash)
      throw new Refusal(anotherKey);
    const isOver = Date.parse(shown.validTo) <= clock.now();
    // a database that was restored does not know of it; else the record knows the key, and it may be renewed
    if (enrolment?.keyHash === undefined && isOver)
      throw new Refusal('it shows a certificate whose time is over');
    const leftMs = Date.parse(shown.validTo) - clock.now();
    if (enrolment?.keyHash !== undefined && leftMs >= authority.validMs / 2) return undefined;
    return await this.#sign(id, machine, shown.publicKey, keyHash);
  }

  async #enrol(id: string, machine: string, answer: EnrolmentAnswer): Promise<string> {
    const { token, request } = answer;
    if (token === undefined || request === undefined)
      throw new Refusal('it has neither the token nor a certificate');
    const key = readRequest(request);
    const keyHash = keyHashOf({ publicKey: key });
    return await this.#sign(id, machine, key, keyHash, token);
  }

  /** Checks, marks and signs in one transaction: of two who come at once one is refused. */
  async #sign(
    id: string,
    machine: string,
    key: X509Certificate['publicKey'],
    keyHash: string,
    token?: string,
  ): Promise<string> {
    const { records, authority, clock } = this.#options;
    return await records.queue(id, async () => {
      const record = records.find(id);
      const { enrolment } = record ?? {};
      if (!record || !enrolment || nameOf(record) !== machine)
        throw new Refusal('the machine has been replaced');
      if (token !== undefined) this.#requireToken(enrolment, token, keyHash);
      const certificate = authority.sign(machine, key);
      const expiresMs = Date.parse(certificate.validTo);
      const { usedMs = clock.now() } = enrolment;
      await records.save({ ...record, enrolment: { ...enrolment, keyHash, usedMs, expiresMs } });
      this.#log.info({ vmId: id, machine, isNew: token !== undefined }, 'machine certified');
      return certificate.toString();
    });
  }

  #requireToken(enrolment: EnrolmentRecord, token: string, keyHash: string): void {
    const { tokenHash, issuedMs, keyHash: usedFor } = enrolment;
    if (!timingSafeEqual(Buffer.from(hashOf(token)), Buffer.from(tokenHash)))
      throw new Refusal('the enrolment token is of another machine');
    // the same key again: our answer was lost
    if (usedFor === keyHash) return;
    if (usedFor !== undefined) throw new Refusal('the enrolment token was used before');
    if (this.#options.clock.now() - issuedMs > this.#options.tokenMs)
      throw new Refusal('the enrolment token is too old');
  }

  /** To who looks after security, and to the owner. */
  async #tell({ id, ownerDn }: TargetSystem, reason: string): Promise<void> {
    const { clock, audit, records } = this.#options;
    const before = this.#told.get(id);
    if (before?.reason === reason && clock.now() - before.atMs < toldAgainMs) return;
    this.#told.set(id, { reason, atMs: clock.now() });
    this.#log.warn({ vmId: id, reason }, 'a machine was refused');
    audit?.({ what: 'enrolment', allowed: false, why: reason, subject: ownerDn, resource: id });
    const evidence = { source: 'server', fact: `refused: ${reason}`, atMs: clock.now() } as const;
    await records
      .queue(id, () => records.applyNow(id, { type: 'refused', evidence }))
      .catch((error: unknown) => {
        this.#log.warn({ vmId: id, err: errorText(error) }, 'a refusal could not be stored');
      });
  }
}

function nameOf({ id, generation, enrolment }: TargetSystem): string {
  return machineName({ id, ...(enrolment ?? (generation !== undefined && { generation })) });
}

/** By which way the token gets into a machine; `undefined`: there is none. */
export function meansOf(
  record: Pick<TargetSystem, 'image' | 'driver' | 'start' | 'bootFromMs'>,
): TokenMeans | undefined {
  const { metadata } = record.image;
  // it ran before it had an owner
  if (!isBooted(record)) return 'message';
  if (record.driver === 'lxc') return 'file';
  // whoever listens on the way would have it, and a certificate could not be shown
  if (metadata.tsi.transport === 'tcp' && !metadata.tsi.tls) return undefined;
  if (metadata.contextualisation?.nocloud === true) return 'seed';
  return metadata.format === 'kernel' ? 'commandLine' : 'message';
}

/** 256 random bits: it is guessed by nobody, and its hash tells nothing. */
export function newToken(): string {
  return randomBytes(32).toString('base64url');
}

export function hashOf(value: string | Buffer): string {
  return createHash('sha256').update(value).digest('hex');
}

function keyHashOf({ publicKey }: Pick<X509Certificate, 'publicKey'>): string {
  return hashOf(publicKey.export({ type: 'spki', format: 'der' }));
}

class Refusal extends GridError<'FORBIDDEN'> {
  constructor(reason: string) {
    super('FORBIDDEN', reason);
  }
}

function readCertificate(pem: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch {
    throw new Refusal('it shows what is no certificate');
  }
}

function readRequest(pem: string): X509Certificate['publicKey'] {
  try {
    return readSigningRequest(pem);
  } catch (error) {
    throw new Refusal(errorText(error));
  }
}
