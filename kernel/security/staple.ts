import { X509Certificate } from 'node:crypto';
import forge from 'node-forge';

const { asn1 } = forge;
type Node = forge.asn1.Asn1;

/** What a responder has said of a server's certificate, as the server may tell it to clients (RFC 6960). */
export type Staple = {
  readonly response: Buffer;
  /** ms since the epoch: then it must not be told any more; Infinity: it says nothing of that. */
  readonly untilMs: number;
};

/**
 * Looks whether it is what it should be. Its signature is for clients to verify, who know whom to believe.
 * @param response DER of an OCSPResponse
 * @param pem the server's certificate; what follows it is not looked at
 * @throws Error saying why it is of no use
 */
export function readStaple(response: Buffer, pem: string, nowMs: number): Staple {
  const [status, bytes] = parse(response.toString('latin1'));
  if (valueOf(status) !== '\0') throw new Error('the responder has refused to answer');
  const [, basic] = childrenOf(childrenOf(bytes)[0]);
  const [data] = parse(valueOf(basic));
  const answers = childrenOf(data).find(isSequence);
  const serial = withoutZeros(new X509Certificate(pem).serialNumber.toLowerCase());
  const answer = childrenOf(answers).find((each) => serialOf(each) === serial);
  if (!answer) throw new Error('it is of another certificate');
  const [, said, , next] = childrenOf(answer);
  if (tagOf(said) !== 0) throw new Error('it does not say that the certificate is good');
  const until = tagOf(next) === 0 ? valueOf(childrenOf(next)[0]) : undefined;
  const untilMs = until === undefined ? Infinity : asn1.generalizedTimeToDate(until).getTime();
  if (!(untilMs > nowMs)) throw new Error('it is out of date');
  return { response, untilMs };
}

function parse(der: string): Node[] {
  try {
    return childrenOf(asn1.fromDer(forge.util.createBuffer(der)));
  } catch (cause) {
    throw new Error('it is no OCSP response', { cause });
  }
}

/** @throws Error */
function childrenOf(node: Node | undefined): Node[] {
  if (!node || !Array.isArray(node.value)) throw new Error('it is no OCSP response');
  return node.value;
}

function valueOf(node: Node | undefined): string {
  if (typeof node?.value !== 'string') throw new Error('it is no OCSP response');
  return node.value;
}

/** Which of several choices it is, or of what may be left out. */
function tagOf(node: Node | undefined): number | undefined {
  return node?.type;
}

/** The list of answers: what else is beside it has a tag of its own, or is a time. */
function isSequence({ tagClass, type }: Node): boolean {
  return tagClass === asn1.Class.UNIVERSAL && type === asn1.Type.SEQUENCE;
}

function serialOf(answer: Node): string {
  const serial = valueOf(childrenOf(childrenOf(answer)[0])[3]);
  return withoutZeros(Buffer.from(serial, 'latin1').toString('hex'));
}

function withoutZeros(hex: string): string {
  return hex.replace(/^0+/, '');
}
