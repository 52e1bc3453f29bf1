import { X509Certificate } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createSecureContext } from 'node:tls';
import { ConfigError } from '#kernel/config.js';
import { errorText } from '#kernel/errors.js';
import { readText } from './tls.js';

/** Whom we believe about our clients, and whose certificates were withdrawn; PEM. */
export type Trust = { readonly ca: readonly string[]; readonly crl: readonly string[] };

const blocks = /-----BEGIN (X509 CRL|CERTIFICATE)-----[^-]+-----END \1-----/g;
const largestFile = 64 * 1024 * 1024;

/**
 * Reads authorities and revocation lists. In a folder the contents tell what a file is, as tools name them
 * in many ways; what is neither (a README) is passed over.
 * @throws {@link ConfigError} `CONFIG_INVALID` naming the file that cannot be read or is broken
 */
export async function loadTrust(files: readonly string[], directory?: string): Promise<Trust> {
  const texts = await Promise.all(files.map(readText));
  const inFolder = directory === undefined ? [] : await readFolder(directory);
  const found = [...texts.flatMap((text) => text.match(blocks) ?? []), ...inFolder];
  const isCrl = (pem: string) => pem.startsWith('-----BEGIN X509 CRL');
  const trust = { ca: found.filter((pem) => !isCrl(pem)), crl: found.filter(isCrl) };
  if (trust.ca.length > 0) return trust;
  throw new ConfigError('CONFIG_INVALID', 'tls: no authority in trustFiles and trustDir');
}

async function readFolder(directory: string): Promise<string[]> {
  const found: string[] = [];
  for (const name of await names(directory)) {
    const path = join(directory, name);
    const { size, isFile } = await stat(path).then(
      (entry) => ({ size: entry.size, isFile: entry.isFile() }),
      unreadable(path),
    );
    if (!isFile) continue;
    // It may be a revocation list: without it, whoever is withdrawn would be let in
    if (size > largestFile) {
      const reason = `${path}: larger than ${largestFile} bytes`;
      throw new ConfigError('CONFIG_INVALID', reason, { path });
    }
    const content = await readFile(path).catch(unreadable(path));
    for (const pem of content[0] === 0x30 ? [toPem(content)] : pemBlocks(content)) {
      check(pem, path);
      found.push(pem);
    }
  }
  return found;
}

async function names(directory: string): Promise<string[]> {
  return (await readdir(directory).catch(unreadable(directory))).sort();
}

function pemBlocks(content: Buffer): readonly string[] {
  return content.toString('latin1').match(blocks) ?? [];
}

/** DER is a certificate if it reads as one. */
function toPem(der: Buffer): string {
  try {
    return new X509Certificate(der).toString();
  } catch {
    const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
    return `-----BEGIN X509 CRL-----\n${lines.join('\n')}\n-----END X509 CRL-----\n`;
  }
}

function check(pem: string, path: string): void {
  try {
    if (pem.startsWith('-----BEGIN X509 CRL')) createSecureContext({ crl: pem });
    else new X509Certificate(pem);
  } catch (cause) {
    const reason = `neither certificate nor revocation list: ${errorText(cause)}`;
    throw new ConfigError('CONFIG_INVALID', `${path}: ${reason}`, { path }, { cause });
  }
}

function unreadable(path: string): (cause: unknown) => never {
  return (cause) => {
    throw new ConfigError('CONFIG_INVALID', errorText(cause), { path }, { cause });
  };
}
