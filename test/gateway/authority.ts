import { execFile } from 'node:child_process';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { issueCertificate, keyPem } from '#kernel/security/ca.js';
import { sharedCredentials } from './rig.js';

const run = promisify(execFile);

/** The certificate authority of the rigs, run by openssl: withdraws certificates and tells so. */
export type Authority = AsyncDisposable & {
  readonly directory: string;
  issue(subject: string): Promise<{ cert: string; key: string; certificate: X509Certificate }>;
  /** A revocation list; `expired` is one that should have been replaced long ago. */
  crl(revoked: readonly X509Certificate[], expired?: boolean): Promise<string>;
  /** DER of an OCSP response that says the certificate is good. */
  ocsp(certFile: string): Promise<Buffer>;
};

export async function openAuthority(): Promise<Authority> {
  const { credentials } = await sharedCredentials();
  const { keyFile, certFile } = credentials.ca;
  const ca = {
    key: createPrivateKey(await readFile(keyFile)),
    certificate: new X509Certificate(await readFile(certFile)),
  };
  const directory = await mkdtemp(join(tmpdir(), 'authority-'));
  const index = join(directory, 'index.txt');
  const config = join(directory, 'ca.cnf');
  await writeFile(
    config,
    `[ca]\ndefault_ca = ours\n[ours]\ndatabase = ${index}\ndefault_md = sha256\n`,
  );
  await writeFile(`${index}.attr`, 'unique_subject = no\n');
  return {
    directory,
    issue: async (subject) => {
      const made = await issueCertificate(ca, { subject, usage: 'client', keyType: 'ec' });
      const { certificate } = made;
      return { cert: certificate.toString(), key: keyPem(made.key), certificate };
    },
    crl: async (revoked, expired = false) => {
      const lines = revoked.map(
        ({ serialNumber }) => `R\t400101000000Z\t200101000000Z\t${serialNumber}\tunknown\t/CN=x\n`,
      );
      await writeFile(index, lines.join(''));
      const times = expired
        ? ['-crl_lastupdate', '20200101000000Z', '-crl_nextupdate', '20200201000000Z']
        : ['-crldays', '1'];
      const { stdout } = await run('openssl', [
        ...['ca', '-gencrl', '-config', config, '-keyfile', keyFile, '-cert', certFile, ...times],
      ]);
      return stdout;
    },
    ocsp: async (subjectFile) => {
      const { serialNumber } = new X509Certificate(await readFile(subjectFile));
      await writeFile(index, `V\t400101000000Z\t\t${serialNumber}\tunknown\t/CN=x\n`);
      const [request, response] = [join(directory, 'request'), join(directory, 'response')];
      await run('openssl', [
        ...['ocsp', '-issuer', certFile, '-cert', subjectFile, '-no_nonce', '-reqout', request],
      ]);
      await run('openssl', [
        ...['ocsp', '-index', index, '-CA', certFile, '-rsigner', certFile, '-rkey', keyFile],
        ...['-reqin', request, '-respout', response, '-ndays', '1'],
      ]);
      return await readFile(response);
    },
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }),
  };
}
