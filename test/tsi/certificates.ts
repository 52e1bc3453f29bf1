import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { MutualTls } from '#kernel/net/tls-upgrade.js';
import { createCa, issueCertificate, keyPem, type KeyType } from '#kernel/security/ca.js';

export type Certificates = {
  readonly tsi: string[];
  readonly xnjs: MutualTls;
  readonly foreign: MutualTls;
};

/** An authority, a TSI and an XNJS under it, and one that is not. */
export async function makeCertificates(dir: string, xnjsKey?: KeyType): Promise<Certificates> {
  const [ca, otherCa] = await Promise.all([createCa('CN=CA,O=Grid'), createCa('CN=CA,O=Grid')]);
  const issue = async (
    issuer: typeof ca,
    subject: string,
    keyType?: KeyType,
  ): Promise<MutualTls> => {
    const one = await issueCertificate(issuer, {
      subject,
      usage: 'server',
      ...(keyType && { keyType }),
    });
    return {
      key: keyPem(one.key),
      cert: one.certificate.toString(),
      ca: ca.certificate.toString(),
    };
  };
  const tsi = await issue(ca, 'CN=TSI,O=Grid');
  const file = (name: string, text = ''): string => {
    writeFileSync(join(dir, name), text, { mode: 0o600 });
    return join(dir, name);
  };
  return {
    tsi: [
      `tsi.keystore=${file('key.pem', tsi.key)}`,
      `tsi.certificate=${file('cert.pem', tsi.cert)}`,
      `tsi.truststore=${file('ca.pem', tsi.ca)}`,
    ],
    xnjs: await issue(ca, 'CN=XNJS 1,O=Grid,C=EU', xnjsKey),
    foreign: await issue(otherCa, 'CN=XNJS 1,O=Grid,C=EU'),
  };
}
