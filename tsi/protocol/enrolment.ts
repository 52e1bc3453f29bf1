import { LinkMessage } from './link-message.js';

/**
 * How a machine proves which one it is (ADR 039): `POST /enrolment` on the agent link. The server asks; an
 * agent with a certificate for that machine shows it and signs the challenge, one that was given the token
 * presents that with a signing request, and gets a certificate by a second message.
 */
export type EnrolmentAsk = {
  /** Which machine the server takes it for, `<id>.<generation>`. */
  readonly machine: string;
  /** 32 random bytes, base64. */
  readonly challenge: string;
  /** SHA-256 of the token that this machine was given, hexadecimal. */
  readonly expects: string;
  /** The token itself, where the machine had no other way to get it. */
  readonly token?: string;
};
export type EnrolmentGrant = {
  readonly machine: string;
  /** PEM. */
  readonly certificate: string;
  /** Who has signed it, and the server's own certificate: PEM. */
  readonly authority: string;
};
/** All absent: it has none of it. */
export type EnrolmentAnswer = {
  readonly certificate?: string;
  /** Over {@link signedText}, base64. */
  readonly signature?: string;
  readonly token?: string;
  /** PKCS#10, PEM. */
  readonly request?: string;
};

export const longestEnrolment = 16_384;

/** What the machine signs: good for nothing else than this question of this server. */
export function signedText(machine: string, challenge: string): string {
  return `vsite enrolment\n${machine}\n${challenge}\n`;
}

const pem =
  /^-----BEGIN [A-Z ]{1,40}-----\n[A-Za-z0-9+/=\n]{1,6000}\n-----END [A-Z ]{1,40}-----\n?$/;
const patterns = {
  machine: /^[0-9a-f-]{36}\.[0-9]{1,9}$/,
  challenge: /^[A-Za-z0-9+/]{43}=$/,
  expects: /^[0-9a-f]{64}$/,
  token: /^[A-Za-z0-9_-]{43}$/,
  certificate: pem,
  authority: pem,
  signature: /^[A-Za-z0-9+/]{16,1024}={0,2}$/,
  request: pem,
} as const;
type Name = keyof typeof patterns;

/** @param json or what was read from it @throws `TSI_PROTOCOL` naming the field */
export function decodeEnrolmentMessage(json: unknown): EnrolmentAsk | EnrolmentGrant {
  const message = new LinkMessage('enrolment', json);
  return message.has('certificate')
    ? read(message, ['machine', 'certificate', 'authority'], [])
    : read(message, ['machine', 'challenge', 'expects'], ['token']);
}

/** @param json or what was read from it @throws `TSI_PROTOCOL` naming the field */
export function decodeEnrolmentAnswer(json: unknown): EnrolmentAnswer {
  const message = new LinkMessage('enrolment', json);
  return read(message, [], ['certificate', 'signature', 'token', 'request']);
}

/** Whether a text may be a token; what lies where one was expected may be anything. */
export function isToken(text: string): boolean {
  return patterns.token.test(text);
}

function read<R extends Name, O extends Name>(
  message: LinkMessage,
  required: readonly R[],
  optional: readonly O[],
): Record<R, string> & Partial<Record<O, string>> {
  const names = [...required, ...optional.filter((name) => message.has(name))];
  const found = Object.fromEntries(names.map((name) => [name, message.text(name, patterns[name])]));
  return found as Record<R, string> & Partial<Record<O, string>>; // each was checked above
}
