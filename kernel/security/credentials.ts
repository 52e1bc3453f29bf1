import { createPrivateKey, randomBytes, X509Certificate } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { ConfigError } from '#kernel/config.js';
import { errorText } from '#kernel/errors.js';
import {
  createCa,
  issueCertificate,
  keyPem,
  toPkcs12,
  type CertificateRequest,
  type Credential,
} from './ca.js';
import { equalDns, formatDn, subjectDn } from './dn.js';

export type CredentialFiles = { readonly certFile: string; readonly keyFile: string };

/** Where everything lies; all keys are readable by their owner only. */
export type Credentials = {
  readonly ca: CredentialFiles;
  /** TLS of the gateway. */
  readonly gateway: CredentialFiles;
  /** Signs the names of clients for the services behind the gateway (RSA, as the protocol asks). */
  readonly consignor: CredentialFiles;
  readonly server: CredentialFiles;
  readonly tsi: CredentialFiles;
  readonly user: CredentialFiles & {
    readonly dn: string;
    readonly pkcs12File: string;
    readonly pkcs12PasswordFile: string;
  };
};

export type CredentialsOptions = {
  directory: string;
  /** Names and addresses of this machine besides `localhost` and its host name. */
  hosts?: readonly string[];
  organisation?: string;
  userName?: string;
};

/** Certificates are replaced this long before they end. */
const renewBeforeMs = 14 * 86_400_000;

/**
 * Makes the certificates of a site: a CA, its services and one user. What exists and is still good
 * (key fits, signed by this CA, not about to expire, names the hosts) is kept.
 * @throws {@link ConfigError} `CONFIG_INVALID` when an existing file cannot be read
 */
export async function createCredentials({
  directory,
  hosts = [],
  organisation = 'O=VSite,C=EU',
  userName = 'Demo User',
}: CredentialsOptions): Promise<Credentials> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const ca = await createAuthority(directory, `CN=VSite CA,${organisation}`);
  const names = [...new Set(['localhost', '127.0.0.1', '::1', hostname(), ...hosts])];
  const issue = async (file: string, request: CertificateRequest): Promise<CredentialFiles> => {
    const files = filesOf(directory, file);
    const existing = await load(files);
    if (!existing || !isGood(existing, ca, request)) {
      await store(files, await issueCertificate(ca, request));
    }
    return files;
  };
  const cn = (name: string) => formatDn([[{ type: 'CN', value: name }]]) + `,${organisation}`;
  const [gateway, consignor, server, tsi, user] = await Promise.all([
    issue('gateway', { subject: cn('Gateway'), usage: 'server', hosts: names }),
    issue('consignor', { subject: cn('Gateway Signer'), usage: 'client' }),
    issue('server', { subject: cn('Target System'), usage: 'server', hosts: names }),
    issue('tsi', { subject: cn('TSI'), usage: 'server', hosts: names }),
    issueUser(directory, ca, userName, cn(userName)),
  ]);
  return {
    ca: filesOf(directory, 'ca'),
    gateway,
    consignor,
    server,
    tsi,
    user,
  };
}

async function createAuthority(directory: string, subject: string): Promise<Credential> {
  const files = filesOf(directory, 'ca');
  const existing = await load(files);
  if (existing && isGood(existing, existing, { subject, usage: 'ca' })) return existing;
  const ca = await createCa(subject);
  await store(files, ca);
  return ca;
}

/** The user's files: besides PEM one PKCS#12 bundle, with a password of its own beside it. */
async function issueUser(
  directory: string,
  ca: Credential,
  userName: string,
  dn: string,
): Promise<Credentials['user']> {
  const files = filesOf(directory, userName.toLowerCase().replace(/[^a-z0-9]+/g, '-'));
  const pkcs12File = files.certFile.replace(/pem$/, 'p12');
  const pkcs12PasswordFile = `${pkcs12File}.password`;
  const request = { subject: dn, usage: 'client' } as const;
  const existing = await load(files);
  const kept = existing && isGood(existing, ca, request) ? existing : undefined;
  if (!kept || (await readOptional(pkcs12File)) === undefined) {
    const user = kept ?? (await issueCertificate(ca, request));
    const password = randomBytes(18).toString('base64url');
    // The certificate last: what is there then is complete
    await writeSecret(pkcs12PasswordFile, `${password}\n`);
    await writeSecret(pkcs12File, toPkcs12(user, ca.certificate, password, userName));
    await store(files, user);
  }
  return { ...files, dn, pkcs12File, pkcs12PasswordFile };
}

function isGood(existing: Credential, ca: Credential, request: CertificateRequest): boolean {
  const { certificate, key } = existing;
  return (
    certificate.checkPrivateKey(key) &&
    equalDns(subjectDn(certificate), request.subject) &&
    certificate.checkIssued(ca.certificate) &&
    certificate.verify(ca.certificate.publicKey) &&
    Date.parse(certificate.validTo) - renewBeforeMs > Date.now() &&
    (request.hosts ?? []).every((host) =>
      isIP(host) ? certificate.checkIP(host) : certificate.checkHost(host),
    )
  );
}

/** Reads a key and its certificate; `undefined` while one of them does not exist. */
async function load(files: CredentialFiles): Promise<Credential | undefined> {
  try {
    const [key, certificate] = await Promise.all([
      readOptional(files.keyFile),
      readOptional(files.certFile),
    ]);
    if (key === undefined || certificate === undefined) return undefined;
    return { key: createPrivateKey(key), certificate: new X509Certificate(certificate) };
  } catch (cause) {
    throw new ConfigError(
      'CONFIG_INVALID',
      `${files.certFile}: ${errorText(cause)}; remove it and its key to have them made anew`,
      { path: files.certFile },
      { cause },
    );
  }
}

async function store(files: CredentialFiles, { key, certificate }: Credential): Promise<void> {
  await writeSecret(files.keyFile, keyPem(key));
  await writeFile(files.certFile, certificate.toString(), { mode: 0o644 });
}

/** Never visible to others and never half written. */
async function writeSecret(path: string, content: string | Buffer): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString('hex')}`;
  await writeFile(temporary, content, { mode: 0o600, flag: 'wx' });
  await rename(temporary, path);
}

async function readOptional(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function filesOf(directory: string, name: string): CredentialFiles {
  return { certFile: join(directory, `${name}.pem`), keyFile: join(directory, `${name}.key`) };
}
