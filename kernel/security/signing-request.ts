import { createPublicKey, verify, type KeyObject } from 'node:crypto';
import { errorText, GridError } from '#kernel/errors.js';

/** Far more than a request for a key of any size that is in use. */
const longestText = 8_192;
const body = /^-----BEGIN CERTIFICATE REQUEST-----([\s\S]+)-----END CERTIFICATE REQUEST-----\s*$/;

/**
 * The key of a certificate signing request (PKCS#10, RFC 2986), whose owner has proved to have its private
 * half. Its name counts nothing: who signs knows whom the certificate is for.
 * @throws `BAD_REQUEST`
 */
export function readSigningRequest(pem: string): KeyObject {
  try {
    if (pem.length > longestText) throw new Error('it is too long');
    const der = Buffer.from(body.exec(pem)?.[1] ?? '', 'base64');
    const [info, , signature] = partsOf(elementAt(der, 0).content);
    const [, , spki] = partsOf(info?.content);
    if (!info || !spki || !signature) throw new Error('a part is missing');
    const key = createPublicKey({ key: spki.whole, format: 'der', type: 'spki' });
    // the first octet of a bit string counts unused bits: none
    if (!verify(digestFor(key), info.whole, key, signature.content.subarray(1)))
      throw new Error('its signature does not fit');
    return key;
  } catch (cause) {
    const text = `the signing request cannot be read: ${errorText(cause)}`;
    throw new GridError('BAD_REQUEST', text, {}, { cause });
  }
}

/** What a key signs: Ed25519 the text itself, others a digest. */
export function digestFor({ asymmetricKeyType }: KeyObject): 'sha256' | null {
  return asymmetricKeyType === 'ed25519' ? null : 'sha256';
}

type Element = { readonly whole: Buffer; readonly content: Buffer };

/** DER's tag, length and value: what was signed are these octets, and no others that mean the same. */
function elementAt(der: Buffer, at: number): Element {
  const first = der.readUInt8(at + 1);
  const more = first < 0x80 ? 0 : first & 0x7f;
  if (more > 2) throw new Error('a part is too long');
  const length = more === 0 ? first : der.readUIntBE(at + 2, more);
  const start = at + 2 + more;
  if (start + length > der.length) throw new Error('it is cut off');
  return {
    whole: der.subarray(at, start + length),
    content: der.subarray(start, start + length),
  };
}

function partsOf(content: Buffer = Buffer.alloc(0)): Element[] {
  const parts: Element[] = [];
  for (let at = 0; at < content.length;) {
    const part = elementAt(content, at);
    parts.push(part);
    at += part.whole.length;
  }
  return parts;
}
