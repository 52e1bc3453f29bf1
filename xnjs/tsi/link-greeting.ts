import { randomBytes } from 'node:crypto';
import type { EnrolmentAnswer, EnrolmentAsk, EnrolmentGrant } from '#tsi/protocol/enrolment.js';
import { TsiError } from '#tsi/protocol/error.js';
import {
  decodeGreetingAnswer,
  encodeGreeting,
  type Greeting,
  type GreetingAnswer,
} from '#tsi/protocol/greeting.js';

/** What an agent is told on one connection before HTTP/2, and what it has made of it. */
export class LinkGreeting {
  /** Absent: it is told nothing. */
  readonly line: string | undefined;
  /** By the greeting, and not used yet. */
  asked: EnrolmentAsk | undefined;
  readonly #nonce = randomBytes(32).toString('base64');
  #answer: GreetingAnswer | undefined;

  constructor(greeting: Omit<Greeting, 'nonce'> | undefined) {
    this.line = greeting && encodeGreeting({ nonce: this.#nonce, ...greeting });
    this.asked = greeting?.enrolment;
  }

  /**
   * @param line `undefined`: the agent knows no greetings
   * @throws `TSI_PROTOCOL` also where it is what an earlier connection has left
   */
  hear(line: string | undefined): void {
    if (line === undefined) {
      this.asked = undefined;
      return;
    }
    const answer = decodeGreetingAnswer(line);
    if (answer.nonce !== this.#nonce)
      throw new TsiError('TSI_PROTOCOL', 'it answers the greeting of an earlier connection', {});
    this.#answer = answer;
  }

  /** Whether the machine has become another one by it. */
  get isAnother(): boolean {
    return this.#answer?.isAnother === true;
  }

  /** The answer to what was asked by it, once: the next time the machine is to prove itself anew. */
  take(message: EnrolmentAsk | EnrolmentGrant): EnrolmentAnswer | undefined {
    if (message !== this.asked) return undefined;
    const answer = this.#answer?.enrolment;
    if (answer) this.asked = undefined;
    return answer;
  }
}
