import type { X509Certificate } from 'node:crypto';
import { createHash, sign, verify, type KeyObject } from 'node:crypto';
import { GridError } from '#kernel/errors.js';
import { BoundedMap } from './bounded-map.js';
import { formatDn, parseDn, type Dn } from './dn.js';

export class ConsignorError extends GridError<'UNAUTHENTICATED'> {}

/** Carries who the gateway's TLS client is, signed by the gateway. */
export const consignorHeader = 'X-UNICORE-Consignor';

const cachedNames = 1_000;

/**
 * Makes header values `DN="<RFC 2253>";DSIG=<base64>`. The signature is made over the SHA-1 digest of
 * the name, by SHA1withRSA: digested twice, as UNICORE does it. Other characters than ASCII are
 * written as octets, since headers carry nothing else.
 */
export function createConsignorSigner(key: KeyObject): (dn: Dn) => string {
  const signed = new BoundedMap<string, string>(cachedNames);
  return (dn) => {
    const name = formatDn(dn, { ascii: true });
    let value = signed.get(name);
    if (value === undefined) {
      value = `DN="${name}";DSIG=${sign('sha1', digest(name), key).toString('base64')}`;
      signed.set(name, value);
    }
    return value;
  };
}

/**
 * Verifies such values; each of `signers` may have signed.
 * @throws {@link ConsignorError} `UNAUTHENTICATED` for anything else, unsigned values included
 */
export function createConsignorVerifier(
  signers: readonly X509Certificate[],
): (value: string) => Dn {
  const verified = new BoundedMap<string, Dn>(cachedNames);
  return (value) => {
    const known = verified.get(value);
    if (known) return known;
    const split = value.lastIndexOf('";DSIG=');
    if (!value.startsWith('DN="') || split < 0) throw refused('malformed');
    const name = value.slice(4, split);
    const signature = Buffer.from(value.slice(split + '";DSIG='.length), 'base64');
    const content = digest(name);
    const now = Date.now();
    const signer = signers.find(
      (each) => isValidAt(each, now) && verify('sha1', content, each.publicKey, signature),
    );
    if (!signer) throw refused('signed by nobody we trust');
    const dn = parseDn(name);
    verified.set(value, dn);
    return dn;
  };
}

function refused(reason: string): ConsignorError {
  return new ConsignorError('UNAUTHENTICATED', `consignor header refused: ${reason}`);
}

function digest(name: string): Buffer {
  return createHash('sha1').update(name, 'utf8').digest();
}

function isValidAt(certificate: X509Certificate, ms: number): boolean {
  return Date.parse(certificate.validFrom) <= ms && ms <= Date.parse(certificate.validTo);
}
