import {
  createHash,
  generateKeyPair,
  randomBytes,
  sign,
  X509Certificate,
  type KeyObject,
} from 'node:crypto';
import { isIP } from 'node:net';
import { promisify } from 'node:util';
import forge from 'node-forge';
import { attributeOids, parseDn } from './dn.js';

/**
 * A small certificate authority. Keys and signatures come from node:crypto (forge cannot sign with
 * elliptic curves and makes RSA keys in JavaScript); forge writes the ASN.1.
 */
export type Credential = { readonly key: KeyObject; readonly certificate: X509Certificate };

export type KeyType = 'rsa' | 'ec';
export type Usage = 'ca' | 'server' | 'client';

export type CertificateRequest = {
  /** RFC 2253 */
  subject: string;
  usage: Usage;
  /** Host names and addresses (servers). */
  hosts?: readonly string[];
  /** Default: `ec` (P-256, the cheapest handshake) for servers, `rsa` (3072) for everything else. */
  keyType?: KeyType;
  validDays?: number;
};

const { asn1 } = forge;
const { Class, Type } = asn1;
// The published types lack this one
const util = forge.util as typeof forge.util & { bytesFromIP(address: string): string };
const dayMs = 86_400_000;
/** Clocks of peers may be a little behind. */
const backdateMs = 3_600_000;
const generate = promisify(generateKeyPair);

/** A self-signed authority. */
export function createCa(subject: string, validDays = 3650): Promise<Credential> {
  return issueCertificate(undefined, { subject, usage: 'ca', validDays });
}

/** Makes a key and a certificate for it, signed by `issuer` (by itself when there is none). */
export async function issueCertificate(
  issuer: Credential | undefined,
  request: CertificateRequest,
): Promise<Credential> {
  const keyType = request.keyType ?? (request.usage === 'server' ? 'ec' : 'rsa');
  const { privateKey, publicKey } =
    keyType === 'ec'
      ? await generate('ec', { namedCurve: 'P-256' })
      : await generate('rsa', { modulusLength: 3072 });
  const signer = issuer ?? { key: privateKey };
  return { key: privateKey, certificate: signCertificate(signer, publicKey, request) };
}

/** A certificate for a key that somebody else has. @param issuer without a certificate: it is its own */
export function signCertificate(
  issuer: Pick<Credential, 'key'> & Partial<Credential>,
  publicKey: KeyObject,
  request: Omit<CertificateRequest, 'keyType'>,
): X509Certificate {
  const signerKey = issuer.key;
  const algorithm = signatureAlgorithm(signerKey);
  const subject = name(request.subject);
  const now = Date.now();
  const content = sequence(
    context(0, [integer('\x02')]),
    integer(serialNumber()),
    algorithm,
    issuer.certificate ? decode(subjectDer(issuer.certificate)) : subject,
    sequence(
      time(now - backdateMs),
      time(Math.min(now + (request.validDays ?? 730) * dayMs, expiry(issuer.certificate))),
    ),
    subject,
    decode(publicKey.export({ type: 'spki', format: 'der' })),
    context(3, [sequence(...extensions(request, publicKey, issuer.certificate))]),
  );
  const signature = sign('sha256', encode(content), signerKey);
  const der = encode(sequence(content, algorithm, bits(signature.toString('latin1'))));
  return new X509Certificate(der);
}

/**
 * A PKCS#12 file as browsers and Java read it. RSA keys only: forge knows no others.
 * @param password random: few rounds are made of it, for forge takes seconds of JavaScript for many
 */
export function toPkcs12(
  { key, certificate }: Credential,
  ca: X509Certificate,
  password: string,
  friendlyName: string,
): Buffer {
  const store = forge.pkcs12.toPkcs12Asn1(
    forge.pki.privateKeyFromPem(keyPem(key)),
    [certificate, ca].map((each) => forge.pki.certificateFromPem(each.toString())),
    password,
    { algorithm: 'aes256', count: 2_048, friendlyName },
  );
  return encode(store);
}

export function keyPem(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' }).toString();
}

function extensions(
  { usage, hosts }: CertificateRequest,
  publicKey: KeyObject,
  issuer: X509Certificate | undefined,
): forge.asn1.Asn1[] {
  const keyId = keyIdentifier(publicKey);
  const issuerKeyId = issuer ? keyIdentifier(issuer.publicKey) : keyId;
  const ca = usage === 'ca';
  const keyUsage = ca
    ? '\x01\x06'
    : publicKey.asymmetricKeyType === 'rsa'
      ? '\x05\xa0'
      : '\x07\x80';
  const list = [
    extension('2.5.29.19', ca, ca ? sequence(boolean(true), integer('\0')) : sequence()),
    extension('2.5.29.15', true, primitive(Type.BITSTRING, keyUsage)),
    extension('2.5.29.14', false, primitive(Type.OCTETSTRING, keyId)),
    extension('2.5.29.35', false, sequence(context(0, issuerKeyId))),
  ];
  // Services call each other, so a server's certificate is good for both ends
  const purposes = ['1.3.6.1.5.5.7.3.2', ...(usage === 'server' ? ['1.3.6.1.5.5.7.3.1'] : [])];
  if (!ca) list.push(extension('2.5.29.37', false, sequence(...purposes.map(oid))));
  if (hosts?.length) list.push(extension('2.5.29.17', false, sequence(...hosts.map(generalName))));
  return list;
}

function name(dn: string): forge.asn1.Asn1 {
  const rdns = parseDn(dn).map((rdn) =>
    set(
      ...rdn.map(({ type, value }) =>
        sequence(oid(attributeOids[type] ?? type), attributeValue(type, value)),
      ),
    ),
  );
  return sequence(...rdns.reverse());
}

function attributeValue(type: string, value: string): forge.asn1.Asn1 {
  if (type === 'DC' || type === 'EMAILADDRESS') return primitive(Type.IA5STRING, value);
  if (type === 'C' || type === 'SERIALNUMBER') return primitive(Type.PRINTABLESTRING, value);
  return primitive(Type.UTF8, util.encodeUtf8(value));
}

function generalName(host: string): forge.asn1.Asn1 {
  return isIP(host) ? context(7, util.bytesFromIP(host)) : context(2, host);
}

function signatureAlgorithm(key: KeyObject): forge.asn1.Asn1 {
  return key.asymmetricKeyType === 'ec'
    ? sequence(oid('1.2.840.10045.4.3.2'))
    : sequence(oid('1.2.840.113549.1.1.11'), primitive(Type.NULL, ''));
}

/** 159 random bits, positive, never short. */
function serialNumber(): string {
  const serial = randomBytes(20);
  serial[0] = (serial.readUInt8(0) & 0x3f) | 0x40;
  return serial.toString('latin1');
}

function keyIdentifier(key: KeyObject): string {
  const spki = key.export({ type: 'spki', format: 'der' });
  return createHash('sha1').update(spki).digest().toString('latin1');
}

/** The issuer's name octet by octet: some verifiers compare names that way. */
function subjectDer(certificate: X509Certificate): Buffer {
  const content = children(children(decode(certificate.raw))[0]);
  const subject = content[5];
  if (subject === undefined) throw new TypeError('a certificate without subject');
  return encode(subject);
}

function children(node: forge.asn1.Asn1 | undefined): forge.asn1.Asn1[] {
  return Array.isArray(node?.value) ? node.value : [];
}

function expiry(issuer: X509Certificate | undefined): number {
  return issuer ? Date.parse(issuer.validTo) : Infinity;
}

function time(ms: number): forge.asn1.Asn1 {
  const date = new Date(ms);
  return date.getUTCFullYear() < 2050
    ? primitive(Type.UTCTIME, asn1.dateToUtcTime(date))
    : primitive(Type.GENERALIZEDTIME, asn1.dateToGeneralizedTime(date));
}

function extension(id: string, critical: boolean, value: forge.asn1.Asn1): forge.asn1.Asn1 {
  const content = primitive(Type.OCTETSTRING, asn1.toDer(value).getBytes());
  return critical ? sequence(oid(id), boolean(true), content) : sequence(oid(id), content);
}

const sequence = (...items: forge.asn1.Asn1[]) =>
  asn1.create(Class.UNIVERSAL, Type.SEQUENCE, true, items);
const set = (...items: forge.asn1.Asn1[]) => asn1.create(Class.UNIVERSAL, Type.SET, true, items);
const primitive = (type: forge.asn1.Type, bytes: string) =>
  asn1.create(Class.UNIVERSAL, type, false, bytes);
const integer = (bytes: string) => primitive(Type.INTEGER, bytes);
const boolean = (value: boolean) => primitive(Type.BOOLEAN, value ? '\xff' : '\0');
const bits = (bytes: string) => primitive(Type.BITSTRING, `\0${bytes}`);
const oid = (dotted: string) => primitive(Type.OID, asn1.oidToDer(dotted).getBytes());
const context = (tag: number, value: string | forge.asn1.Asn1[]) =>
  // eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment -- here the tag is the context's own
  asn1.create(Class.CONTEXT_SPECIFIC, tag, typeof value !== 'string', value);

function encode(node: forge.asn1.Asn1): Buffer {
  return Buffer.from(asn1.toDer(node).getBytes(), 'latin1');
}

function decode(der: Buffer): forge.asn1.Asn1 {
  return asn1.fromDer(der.toString('latin1'));
}
