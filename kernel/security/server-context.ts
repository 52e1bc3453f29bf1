import { createHash, createHmac } from 'node:crypto';
import { createSecureContext, type TlsOptions } from 'node:tls';
import { ConfigError } from '#kernel/config.js';
import { errorText } from '#kernel/errors.js';
import { readText, serverTls } from './tls.js';
import { loadTrust } from './trust.js';

export type ServerFiles = {
  readonly keyFile: string;
  readonly certFile: string;
  /** Authorities of clients, and lists of what they have withdrawn. */
  readonly trustFiles: readonly string[];
  /** A folder of the same. */
  readonly trustDir?: string | undefined;
};

export type ServerContext = {
  readonly tls: TlsOptions;
  /** Differs when other clients are to be believed. */
  readonly trustVersion: string;
  readonly cert: string;
  readonly ca: readonly string[];
};

/**
 * Reads and checks all that a server needs that asks its clients for certificates.
 * @param ticketSecret from it come the keys of TLS session tickets: all processes know them, and a session does not
 *   outlive the trust in its client
 * @throws {@link ConfigError} `CONFIG_INVALID` naming the file
 */
export async function loadServerContext(
  { keyFile, certFile, trustFiles, trustDir }: ServerFiles,
  ticketSecret: Buffer,
): Promise<ServerContext> {
  const believesAny = trustFiles.length > 0 || trustDir !== undefined;
  const [key, cert, trust] = await Promise.all([
    readText(keyFile),
    readText(certFile),
    believesAny ? loadTrust(trustFiles, trustDir) : { ca: [], crl: [] },
  ]);
  const { ca, crl } = trust;
  const trustVersion = createHash('sha256').update(JSON.stringify(trust)).digest('hex');
  const tls: TlsOptions = {
    ...serverTls({ key, cert, ca }),
    ...(crl.length > 0 && { crl: [...crl] }),
    ticketKeys: createHmac('sha384', ticketSecret).update(trustVersion).digest(),
  };
  try {
    createSecureContext(tls);
  } catch (cause) {
    const reason = `${certFile}: not usable: ${errorText(cause)}`;
    throw new ConfigError('CONFIG_INVALID', reason, { path: certFile }, { cause });
  }
  return { tls, trustVersion, cert, ca };
}
