import { createHash, verify, X509Certificate, type KeyObject } from 'node:crypto';
import { errorText, GridError } from '#kernel/errors.js';
import { digestFor, readSigningRequest } from '#kernel/security/signing-request.js';
import { signedText } from '#tsi/protocol/enrolment.js';

/** It is not the machine that it is taken for, or has not shown that it is. */
export class Refusal extends GridError<'FORBIDDEN'> {
  constructor(reason: string) {
    super('FORBIDDEN', reason);
  }
}

/** This question of ours, by which it has the key now. */
export function hasSigned(
  key: KeyObject,
  machine: string,
  challenge: string,
  signature: string,
): boolean {
  const text = Buffer.from(signedText(machine, challenge));
  return verify(digestFor(key), text, key, Buffer.from(signature, 'base64'));
}

export function readCertificate(pem: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch {
    throw new Refusal('it shows what is no certificate');
  }
}

export function readRequest(pem: string): KeyObject {
  try {
    return readSigningRequest(pem);
  } catch (error) {
    throw new Refusal(errorText(error));
  }
}

/** SHA-256, hexadecimal. */
export function hashOf(value: string | Buffer): string {
  return createHash('sha256').update(value).digest('hex');
}

/** Of a public key, in the form that certificates have it. */
export function keyHashOf({ publicKey }: Pick<X509Certificate, 'publicKey'>): string {
  return hashOf(publicKey.export({ type: 'spki', format: 'der' }));
}
