import type { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { TLSSocket, type SecureContextOptions, type TlsOptions } from 'node:tls';
import type { Duplex } from 'node:stream';
import { ConfigError } from '#kernel/config.js';
import { errorText } from '#kernel/errors.js';

/** Contents, not paths. `ca` is whom we believe about our peers. */
export type TlsMaterial = { key: string; cert: string; ca: readonly string[] };

/** Forward secrecy and authenticated encryption only; TLS 1.3 has its own list, all good. */
const ciphers = [
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
].join(':');

const protocol = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.3', ciphers } as const;

/** @throws {@link ConfigError} `CONFIG_INVALID` naming the file */
export async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw new ConfigError('CONFIG_INVALID', errorText(cause), { path }, { cause });
  }
}

/**
 * For servers that ask for client certificates without insisting. A bad one does not end the
 * handshake, so that its owner can be told: ask {@link clientCertificate} before believing anything.
 */
export function serverTls({ key, cert, ca }: TlsMaterial): TlsOptions {
  return {
    ...protocol,
    key,
    cert,
    ca: [...ca],
    honorCipherOrder: true,
    requestCert: true,
    rejectUnauthorized: false,
  };
}

/** For clients, which show their certificate and verify the server's. */
export function clientTls({ key, cert, ca }: Partial<TlsMaterial>): SecureContextOptions & {
  rejectUnauthorized: true;
} {
  return {
    ...protocol,
    ...(key !== undefined && { key }),
    ...(cert !== undefined && { cert }),
    ...(ca !== undefined && { ca: [...ca] }),
    rejectUnauthorized: true,
  };
}

/**
 * The certificate that the peer proved to own, if it showed one; `refused` is OpenSSL's reason for
 * not accepting it. `socket.authorized` alone does not tell: a resumed session without certificate
 * counts as authorized.
 */
export function clientCertificate(
  socket: Duplex,
): { certificate: X509Certificate; refused?: string } | undefined {
  if (!(socket instanceof TLSSocket)) return undefined;
  const certificate = socket.getPeerX509Certificate();
  if (!certificate) return undefined;
  if (socket.authorized) return { certificate };
  // Published as an Error, set as its code
  return { certificate, refused: String(socket.authorizationError) };
}
