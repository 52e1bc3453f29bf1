import {
  decodeEnrolmentAnswer,
  decodeEnrolmentMessage,
  type EnrolmentAnswer,
  type EnrolmentAsk,
} from './enrolment.js';
import { TsiError } from './error.js';
import { LinkMessage } from './link-message.js';
import { decodeMachineIdentity, type MachineIdentity } from './machine-identity.js';

/**
 * What a host says on a machine's channel before HTTP/2, in one line, and what the agent answers in one (ADR 039): who
 * the machine is from now on, and the question whether it is that. The same as by `POST /identity` and `/enrolment`;
 * but the first request of an HTTP/2 session costs an emulated machine more than what is asked. An agent that does not
 * know it takes it for what an earlier host has left, and answers nothing.
 */
export type Greeting = {
  /** 32 random bytes, base64: an answer that an earlier host did not read has another. */
  readonly nonce: string;
  readonly identity?: MachineIdentity;
  readonly enrolment?: EnrolmentAsk;
};
export type GreetingAnswer = {
  readonly nonce: string;
  /** Whether the machine is another one now. */
  readonly isAnother: boolean;
  /** Absent: it was not asked, or could not say. */
  readonly enrolment?: EnrolmentAnswer;
};

export const longestGreeting = 24_576;
const greetingWord = 'VSITE-GREETING ';
export const answerWord = 'VSITE-ANSWER ';
const noncePattern = /^[A-Za-z0-9+/]{43}=$/;

export function encodeGreeting(greeting: Greeting): string {
  return line(greetingWord, greeting);
}

/** @returns `undefined`: it is none @throws `TSI_PROTOCOL` naming the field */
export function decodeGreeting(text: string): Greeting | undefined {
  if (!text.startsWith(greetingWord)) return undefined;
  const message = new LinkMessage('greeting', text.slice(greetingWord.length));
  const enrolment = message.has('enrolment')
    ? decodeEnrolmentMessage(message.part('enrolment'))
    : undefined;
  if (enrolment && !('challenge' in enrolment))
    throw new TsiError('TSI_PROTOCOL', 'a greeting asks, and grants nothing', {});
  return {
    nonce: message.text('nonce', noncePattern),
    ...(message.has('identity') && { identity: decodeMachineIdentity(message.part('identity')) }),
    ...(enrolment && { enrolment }),
  };
}

export function encodeGreetingAnswer(answer: GreetingAnswer): string {
  return line(answerWord, answer);
}

/** @throws `TSI_PROTOCOL` naming the field */
export function decodeGreetingAnswer(text: string): GreetingAnswer {
  if (!text.startsWith(answerWord))
    throw new TsiError('TSI_PROTOCOL', 'a greeting is answered by something else', {});
  const message = new LinkMessage('answer', text.slice(answerWord.length));
  return {
    nonce: message.text('nonce', noncePattern),
    isAnother: message.flag('isAnother'),
    ...(message.has('enrolment') && {
      enrolment: decodeEnrolmentAnswer(message.part('enrolment')),
    }),
  };
}

/** JSON has no line breaks of its own. */
function line(word: string, message: object): string {
  return `${word}${JSON.stringify(message)}\n`;
}
