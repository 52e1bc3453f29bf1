import { createHmac, randomBytes, timingSafeEqual, type KeyObject } from 'node:crypto';
import type { Clock } from '#kernel/clock.js';
import { GridError, errorText } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { Audit } from '#kernel/security/audit.js';
import type { EnrolmentAnswer, EnrolmentAsk } from '#tsi/protocol/enrolment.js';
import type { AskEnrolment } from '../../tsi/agent-link-options.js';
import type { MachinePeer } from '../../tsi/callback-transport.js';
import type { Evidence, TargetSystem } from '../target-system.js';
import { isBooted } from '../tiers/identity.js';
import { machineName, type MachineAuthority } from './machine-authority.js';
import { hashOf, hasSigned, keyHashOf, readCertificate, readRequest, Refusal } from './proof.js';

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

/** A machine that is to prove itself: a target system's, or nobody's yet. */
export type Enrollee = Pick<TargetSystem, 'id' | 'generation' | 'enrolment'> & {
  /** For whom it runs. */
  readonly dn: string;
  /** By which way its token gets into it; absent: there is none. */
  readonly means?: TokenMeans | undefined;
  /** Its image says that it can. */
  readonly isRequired: boolean;
  /** It becomes another one first, its random numbers with it. */
  readonly isToChange: boolean;
};

/** What is known of such machines, and durable. */
export type Enrollees = {
  find(id: string): Enrollee | undefined;
  /** Work on one machine, one piece after the other. */
  queue<T>(id: string, work: () => Promise<T>): Promise<T>;
  /** Only from inside its queue. */
  save(id: string, enrolment: EnrolmentRecord): Promise<void>;
  /** Somebody else has answered in its place. Only from inside its queue. */
  refused(id: string, evidence: Evidence): Promise<void>;
};

export type EnrolmentsOptions = EnrolmentConfig & {
  readonly machines: Enrollees;
  /** The token lies there no longer than it is needed. */
  readonly forgetToken: (machine: Enrollee) => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
};

export type Admission = {
  /** It is to have that before anything else is asked of it. */
  readonly needsCertificate?: boolean;
  /** Before, and not answered yet: that answer will do. */
  readonly asked?: EnrolmentAsk | undefined;
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
  /** Of which tokens are made that nobody keeps: each as good as a random one. */
  readonly #secret = randomBytes(32);
  readonly #told = new Map<string, { readonly reason: string; readonly atMs: number }>();

  constructor(options: EnrolmentsOptions) {
    this.#options = options;
    this.#log = options.log.child({ part: 'xnjs.vm.enrolment' });
  }

  /**
   * That somebody was connected to says nothing yet of who it is.
   * @throws `FORBIDDEN` it is not the machine; what `ask` does
   */
  async admit(
    id: string,
    ask: AskEnrolment,
    { needsCertificate = false, asked }: Admission = {},
  ): Promise<void> {
    const enrollee = this.#options.machines.find(id);
    if (!enrollee || enrollee.isToChange) return;
    try {
      const granted = await this.#prove(enrollee, ask, asked);
      this.#told.delete(id);
      if (needsCertificate) await granted?.();
      else void granted?.();
    } catch (error) {
      if (error instanceof Refusal) await this.#tell(enrollee, error.message);
      throw error;
    }
  }

  /**
   * What a machine is asked for when it is connected to, before it is admitted by the answer; `undefined`: it is asked
   * for nothing that early.
   */
  questionFor(id: string): EnrolmentAsk | undefined {
    const enrollee = this.#options.machines.find(id);
    const { tokenHash: expects, issuedMs, keyHash } = enrollee?.enrolment ?? {};
    if (!enrollee || expects === undefined || issuedMs === undefined) return undefined;
    const machine = nameOf(enrollee);
    const question = { machine, challenge: newChallenge(), expects };
    if (enrollee.means !== 'message' || keyHash !== undefined) return question;
    if (this.#isOver(issuedMs)) return undefined; // it gets another
    const token = this.#tokenFor(machine, issuedMs);
    return hashOf(token) === expects ? { ...question, token } : undefined;
  }

  /**
   * A token for a machine that gets it over its channel, and has not run yet. It is kept nowhere: a server that did not
   * issue it makes another.
   */
  issueForChannel(machine: Pick<Enrollee, 'id' | 'generation'>): EnrolmentRecord {
    const issuedMs = this.#options.clock.now();
    const token = this.#tokenFor(machineName(machine), issuedMs);
    return { ...this.issue({ ...machine, means: 'message' }, token), issuedMs };
  }

  #tokenFor(machine: string, issuedMs: number): string {
    const of = `${machine} ${issuedMs}`;
    return createHmac('sha256', this.#secret).update(of).digest('base64url');
  }

  /**
   * What such a machine shows from then on where its TSI is reached over a network; `undefined`: it has not
   * proved itself yet. As long as its key is known its certificate counts, even after its time.
   */
  peerOf(id: string): MachinePeer | undefined {
    const enrollee = this.#options.machines.find(id);
    const pinned = enrollee?.enrolment?.keyHash;
    if (!enrollee || pinned === undefined) return undefined;
    const name = nameOf(enrollee);
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
    const enrollee = this.#options.machines.find(id);
    return enrollee !== undefined && this.isDue(enrollee);
  }

  /** Whose certificate has to be renewed soon. */
  isDue({ enrolment }: Pick<TargetSystem, 'enrolment'>): boolean {
    const { usedMs, expiresMs } = enrolment ?? {};
    if (usedMs === undefined || expiresMs === undefined) return false;
    return expiresMs - this.#options.clock.now() < this.#options.authority.validMs / 2;
  }

  /** @returns what gives it its new certificate, where there is one */
  async #prove(
    enrollee: Enrollee,
    ask: AskEnrolment,
    asked: EnrolmentAsk | undefined,
  ): Promise<(() => Promise<void>) | undefined> {
    const { id, enrolment, means, isRequired } = enrollee;
    const isByMessage = means === 'message' && enrolment?.keyHash === undefined;
    // made by an earlier version of this server, or found again: the hypervisor's word is all there is
    if (!enrolment && !isByMessage) return undefined;
    const machine = nameOf(enrollee);
    const expects = enrolment?.tokenHash;
    const isAsked = asked?.machine === machine && asked.expects === expects;
    const challenge = isAsked ? asked.challenge : newChallenge();
    const question = { machine, challenge };
    let answer = expects && (await ask(isAsked ? asked : { ...question, expects }));
    const hasNothing = answer && answer.certificate === undefined && answer.token === undefined;
    if (isByMessage && (!enrolment || hasNothing)) {
      const token = newToken();
      await this.#note(id, token);
      answer = await ask({ ...question, expects: hashOf(token), token });
    }
    if (!answer) {
      if (enrolment?.keyHash === undefined && !isRequired) return undefined;
      throw new Refusal('its agent cannot prove which machine it is');
    }
    const certificate = answer.certificate
      ? await this.#check(id, machine, challenge, answer)
      : await this.#enrol(id, machine, challenge, answer);
    if (certificate === undefined) return undefined;
    return () => this.#grant(enrollee, machine, certificate, ask);
  }

  /** It has proved itself without. One that gets lost is asked for on the next connection. */
  async #grant(
    enrollee: Enrollee,
    machine: string,
    certificate: string,
    ask: AskEnrolment,
  ): Promise<void> {
    const { authority, forgetToken } = this.#options;
    try {
      const granted = await ask({ machine, certificate, authority: authority.certificate });
      if (!granted) throw new GridError('TSI_UNAVAILABLE', 'its agent takes no certificate');
      await forgetToken(enrollee);
    } catch (error) {
      const about = { vmId: enrollee.id, err: errorText(error) };
      this.#log.info(about, 'a machine did not get its certificate');
    }
  }

  /** Of a machine that has no other way to get it than over its own channel. */
  async #note(id: string, token: string): Promise<void> {
    const { machines } = this.#options;
    await machines.queue(id, async () => {
      const enrollee = machines.find(id);
      if (enrollee) await machines.save(id, this.issue(enrollee, token));
    });
  }

  /** What the record says of a token, before anybody gets it. */
  issue(
    { generation = 1, means = 'message' }: Pick<Enrollee, 'generation' | 'means'>,
    token: string,
  ): EnrolmentRecord {
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
    const { authority, machines, clock } = this.#options;
    if (!authority.hasSigned(shown, machine)) throw new Refusal(anotherMachine);
    if (!hasSigned(shown.publicKey, machine, challenge, signature))
      throw new Refusal('it does not have the key of the certificate that it shows');
    const enrolment = machines.find(id)?.enrolment;
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

  /** By the token, or by the key that the token was used for, where the certificate was lost on its way. */
  async #enrol(
    id: string,
    machine: string,
    challenge: string,
    { token, request, signature = '' }: EnrolmentAnswer,
  ): Promise<string> {
    const nothing = 'it has neither the token nor a certificate';
    if (request === undefined) throw new Refusal(nothing);
    const key = readRequest(request);
    const keyHash = keyHashOf({ publicKey: key });
    const usedFor = this.#options.machines.find(id)?.enrolment?.keyHash;
    if (
      token === undefined &&
      (usedFor !== keyHash || !hasSigned(key, machine, challenge, signature))
    )
      throw new Refusal(nothing);
    return await this.#sign(id, machine, key, keyHash, token);
  }

  /** Checks, marks and signs in one transaction: of two who come at once one is refused. */
  async #sign(
    id: string,
    machine: string,
    key: KeyObject,
    keyHash: string,
    token?: string,
  ): Promise<string> {
    const { machines, authority, clock } = this.#options;
    return await machines.queue(id, async () => {
      const enrollee = machines.find(id);
      const { enrolment } = enrollee ?? {};
      if (!enrollee || !enrolment || nameOf(enrollee) !== machine)
        throw new Refusal('the machine has been replaced');
      if (token !== undefined) this.#requireToken(enrolment, token, keyHash);
      const certificate = authority.sign(machine, key);
      const expiresMs = Date.parse(certificate.validTo);
      const { usedMs = clock.now() } = enrolment;
      await machines.save(id, { ...enrolment, keyHash, usedMs, expiresMs });
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
    if (this.#isOver(issuedMs)) throw new Refusal('the enrolment token is too old');
  }

  #isOver(issuedMs: number): boolean {
    return this.#options.clock.now() - issuedMs > this.#options.tokenMs;
  }

  /** To who looks after security, and to the owner. */
  async #tell({ id, dn }: Enrollee, reason: string): Promise<void> {
    const { clock, audit, machines } = this.#options;
    const before = this.#told.get(id);
    if (before?.reason === reason && clock.now() - before.atMs < toldAgainMs) return;
    this.#told.set(id, { reason, atMs: clock.now() });
    this.#log.warn({ vmId: id, reason }, 'a machine was refused');
    audit?.({ what: 'enrolment', allowed: false, why: reason, subject: dn, resource: id });
    const evidence = { source: 'server', fact: `refused: ${reason}`, atMs: clock.now() } as const;
    await machines
      .queue(id, () => machines.refused(id, evidence))
      .catch((error: unknown) => {
        this.#log.warn({ vmId: id, err: errorText(error) }, 'a refusal could not be stored');
      });
  }
}

function nameOf({ id, generation, enrolment }: Enrollee): string {
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

function newChallenge(): string {
  return randomBytes(32).toString('base64');
}
