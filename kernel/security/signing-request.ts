import { createPublicKey, verify, type KeyObject } from 'node:crypto';
import forge from 'node-forge';
import { GridError } from '#kernel/errors.js';

const { asn1 } = forge;

/** Far more than a request for a key of any size that is in use. */
const longestBytes = 8_192;

/**
 * The key of a certificate signing request (PKCS#10, RFC 2986), whose owner has proved to have its private
 * half. Its name counts nothing: who signs knows whom the certificate is for.
 * @throws `BAD_REQUEST`
 */
export function readSigningRequest(pem: string): KeyObject {
  try {
    const body =
      /^-----BEGIN CERTIFICATE REQUEST-----([\s\S]+)-----END CERTIFICATE REQUEST-----\s*$/;
    const der = Buffer.from(body.exec(pem)?.[1] ?? '', 'base64');
    if (der.length === 0 || pem.length > longestBytes) throw new Error('it is no PEM text');
    const [info, , signature] = children(asn1.fromDer(der.toString('latin1')));
    const spki = children(info)[2];
    if (!info || !spki || typeof signature?.value !== 'string')
      throw new Error('a part is missing');
    const key = createPublicKey({ key: encode(spki), format: 'der', type: 'spki' });
    // the first octet of a bit string counts unused bits: none
    const signed = Buffer.from(signature.value.slice(1), 'latin1');
    if (!verify('sha256', encode(info), key, signed)) throw new Error('its signature does not fit');
    return key;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new GridError(
      'BAD_REQUEST',
      `the signing request cannot be read: ${reason}`,
      {},
      { cause },
    );
  }
}

function children(node: forge.asn1.Asn1 | undefined): forge.asn1.Asn1[] {
  return Array.isArray(node?.value) ? node.value : [];
}

function encode(node: forge.asn1.Asn1): Buffer {
  return Buffer.from(asn1.toDer(node).getBytes(), 'latin1');
}
