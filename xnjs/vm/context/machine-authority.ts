import { createPrivateKey, X509Certificate, type KeyObject } from 'node:crypto';
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { issueCertificate, keyPem, signCertificate, type Credential } from '#kernel/security/ca.js';

const authorityDays = 3_650;

/** What a machine is called in its certificate, and in what the server asks its agent. */
export function machineName({
  id,
  generation = 1,
}: {
  readonly id: string;
  readonly generation?: number;
}): string {
  return `${id}.${generation}`;
}

/**
 * Signs the certificates of machines. An authority of its own, made at the first start: what a machine shows
 * must never count as a user's or a service's certificate, which another authority of the site signs.
 */
export class MachineAuthority {
  readonly #credential: Credential;
  readonly #organisation: string;
  readonly #validDays: number;

  constructor(credential: Credential, installationId: string, validDays: number) {
    this.#credential = credential;
    this.#organisation = installationId;
    this.#validDays = validDays;
  }

  /** @param file holds key and certificate, PEM; made if it is not there */
  static async open(
    file: string,
    installationId: string,
    validDays: number,
  ): Promise<MachineAuthority> {
    const found = await readFile(file, 'utf8').catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    });
    const credential =
      found === undefined
        ? await issueCertificate(undefined, {
            subject: `CN=Machines,O=${installationId}`,
            usage: 'ca',
            keyType: 'ec',
            validDays: authorityDays,
          })
        : { key: createPrivateKey(found), certificate: new X509Certificate(found) };
    if (found === undefined) await writeWhole(file, toPem(credential));
    return new MachineAuthority(credential, installationId, validDays);
  }

  get validMs(): number {
    return this.#validDays * 86_400_000;
  }

  /** PEM. */
  get certificate(): string {
    return this.#credential.certificate.toString();
  }

  /** RFC 2253. */
  subjectOf(machine: string): string {
    return `CN=${machine},OU=Machines,O=${this.#organisation}`;
  }

  sign(machine: string, key: KeyObject): X509Certificate {
    return signCertificate(this.#credential, key, {
      subject: this.subjectOf(machine),
      usage: 'server',
      hosts: [machine],
      validDays: this.#validDays,
    });
  }

  /** Whether it has signed it for that machine, however long ago. */
  hasSigned(certificate: X509Certificate, machine: string): boolean {
    return (
      certificate.checkIssued(this.#credential.certificate) &&
      certificate.verify(this.#credential.certificate.publicKey) &&
      certificate.checkHost(machine, { subject: 'never', wildcards: false }) === machine
    );
  }
}

function toPem({ key, certificate }: Credential): string {
  return `${keyPem(key)}${certificate.toString()}`;
}

async function writeWhole(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const draft = `${path}.new`;
  await rm(draft, { force: true });
  const file = await open(draft, 'wx', 0o600);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(draft, path);
}
