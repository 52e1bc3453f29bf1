import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createCa, issueCertificate, keyPem } from '#kernel/security/ca.js';

/**
 * Certificates of a libvirtd that is reached by TLS (`server.pem`, `server.key`), and of its one client in the form of
 * a URI's `pkipath`.
 */
export async function writePki(directory: string, host: string): Promise<void> {
  const ca = await createCa('CN=Test CA');
  const keyType = 'rsa'; // libvirtd insists on key encipherment
  const server = { subject: 'CN=north', usage: 'server', hosts: [host], keyType } as const;
  const client = { subject: 'CN=vsite', usage: 'client', keyType } as const;
  const [served, asked] = [await issueCertificate(ca, server), await issueCertificate(ca, client)];
  await mkdir(directory, { recursive: true });
  const files = {
    'cacert.pem': ca.certificate.toString(),
    'clientcert.pem': asked.certificate.toString(),
    'clientkey.pem': keyPem(asked.key),
    'server.pem': served.certificate.toString(),
    'server.key': keyPem(served.key),
  };
  for (const [name, text] of Object.entries(files)) await writeFile(join(directory, name), text);
}
