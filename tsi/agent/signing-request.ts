import { createPublicKey, sign, type KeyObject } from 'node:crypto';

const commonName = Buffer.from('0603550403', 'hex');
const ecdsaWithSha256 = Buffer.from('06082a8648ce3d040302', 'hex');

/** PKCS#10 (RFC 2986) for a key of an elliptic curve. Few octets, so no library of them goes into images. */
export function signingRequest(key: KeyObject, name: string): string {
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' });
  const subject = sequence(der(0x31, sequence(commonName, der(0x0c, Buffer.from(name)))));
  const info = sequence(der(0x02, Buffer.of(0)), subject, spki, der(0xa0));
  const signature = der(0x03, Buffer.of(0), sign('sha256', info, key));
  const lines = sequence(info, sequence(ecdsaWithSha256), signature)
    .toString('base64')
    .replace(/.{64}/g, '$&\n');
  return `-----BEGIN CERTIFICATE REQUEST-----\n${lines.trimEnd()}\n-----END CERTIFICATE REQUEST-----\n`;
}

const sequence = (...parts: readonly Buffer[]): Buffer => der(0x30, ...parts);

function der(tag: number, ...parts: readonly Buffer[]): Buffer {
  const content = Buffer.concat(parts);
  const { length } = content;
  // such a request has some hundred octets
  const size = length < 0x80 ? [length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.of(tag, ...size), content]);
}
