import { createPrivateKey, sign, type KeyObject } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';

/*
 * Keys of machines, Ed25519, and requests for their certificates. Written by hand as far as that is a fixed text and
 * a few octets: what OpenSSL does for any kind of key costs an emulated machine a tenth of a second the first time.
 */

/** PKCS#8 before the secret half, SubjectPublicKeyInfo before the public one (RFC 8410). */
const privatePrefix = Buffer.from('302e020100300506032b657004220420', 'hex');
const publicPrefix = Buffer.from('302a300506032b6570032100', 'hex');
const ed25519 = Buffer.from('06032b6570', 'hex');
const commonName = Buffer.from('0603550403', 'hex');

/**
 * A new one, of the kernel's random numbers: those of our own generator are the same in all copies of a machine's
 * memory (ADR 035), the kernel's are not.
 */
export function newMachineKey(): { readonly key: KeyObject; readonly pem: string } {
  const secret = randomOfKernel(32);
  const pem = toPem('PRIVATE KEY', Buffer.concat([privatePrefix, secret]));
  // the public half follows from the secret one; the member has to be there, and is not looked at
  const jwk = { kty: 'OKP', crv: 'Ed25519', d: secret.toString('base64url'), x: '' };
  return { key: createPrivateKey({ key: jwk, format: 'jwk' }), pem };
}

/** PKCS#10 (RFC 2986). */
export function signingRequest(key: KeyObject, name: string): string {
  const { x = '' } = key.export({ format: 'jwk' });
  const spki = Buffer.concat([publicPrefix, Buffer.from(x, 'base64url')]);
  const subject = sequence(der(0x31, sequence(commonName, der(0x0c, Buffer.from(name)))));
  const info = sequence(der(0x02, Buffer.of(0)), subject, spki, der(0xa0));
  const signature = der(0x03, Buffer.of(0), sign(null, info, key));
  return toPem('CERTIFICATE REQUEST', sequence(info, sequence(ed25519), signature));
}

function randomOfKernel(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  const fd = openSync('/dev/urandom', 'r');
  try {
    if (readSync(fd, bytes) !== length) throw new Error('/dev/urandom gave too little');
    return bytes;
  } finally {
    closeSync(fd);
  }
}

function toPem(what: string, content: Buffer): string {
  const lines = content.toString('base64').replace(/.{64}(?=.)/g, '$&\n');
  return `-----BEGIN ${what}-----\n${lines}\n-----END ${what}-----\n`;
}

const sequence = (...parts: readonly Buffer[]): Buffer => der(0x30, ...parts);

function der(tag: number, ...parts: readonly Buffer[]): Buffer {
  const content = Buffer.concat(parts);
  const { length } = content;
  // such a request has fewer than 256 octets, whatever the machine is called
  const size = length < 0x80 ? [length] : [0x81, length];
  return Buffer.concat([Buffer.of(tag, ...size), content]);
}
