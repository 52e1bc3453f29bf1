import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildImage, type BuiltImage } from '#cli/image/build.js';
import { projectRoot } from '#kernel/project-root.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { ImageMetadata } from '#imagerepo/contract.js';
import { silentLog } from '#kernel/log.js';
import { makeCertificates } from '../tsi/certificates.js';
import { suiteApplications } from '../xnjs/job/end-to-end-suite.js';
import type { TsiSources } from './unicore-tsi.js';

const recipe = 'unicore-tsi';
/** Ends the TSI with its workers, or the machine, when a job asks for it: no job may do that itself. */
const backDoor = `#!/bin/sh
while :; do
  [ -e /tmp/kill-tsi ] && rm -f /tmp/kill-tsi && pkill -KILL -f TSI.py
  [ -e /tmp/reboot ] && reboot -f
  sleep 0.2
done &
exec /usr/lib/vsite/tsi
`;

export type TsiImage = {
  readonly version: string;
  readonly image: BuiltImage;
  /** Of the server's, for `tsi.tls`. */
  readonly tls?: { readonly keyFile: string; readonly certFile: string };
};

/** An image with the original, as docs/image-creators.md says, and the back door. */
export async function buildTsiImage(
  directory: string,
  { directory: checkout, version }: TsiSources,
  tls: boolean,
): Promise<TsiImage> {
  cpSync(join(projectRoot, 'config', 'images'), join(directory, 'images'), { recursive: true });
  const folder = join(directory, 'images', recipe);
  const root = join(folder, 'root');
  const lib = join(root, 'usr', 'share', 'unicore', 'tsi', 'lib');
  cpSync(join(checkout, 'lib'), lib, { recursive: true });
  const main = join(lib, 'TSI.py');
  writeFileSync(main, readFileSync(main, 'utf8').replaceAll('__VERSION__', version));
  const programs = join(root, 'usr', 'lib', 'vsite');
  cpSync(join(programs, 'agent'), join(programs, 'tsi'));
  writeFileSync(join(programs, 'agent'), backDoor);
  const secrets = tls ? await addKeys(directory, join(root, 'etc', 'vsite')) : undefined;

  // kernel and packages are there after the first time
  const cacheDir = join(defaultCacheDirectory(), 'images');
  const built = await buildImage(folder, { cacheDir, log: silentLog });
  const metadata = ImageMetadata.parse({
    ...built.metadata,
    name: `tsi-${version}${tls ? '-tls' : ''}`,
    applications: suiteApplications,
    tsi: { ...built.metadata.tsi, ...(secrets && { tls: secrets.ofTsi }) },
  });
  return { version, image: { ...built, metadata }, ...(secrets && { tls: secrets.ofServer }) };
}

async function addKeys(directory: string, target: string) {
  const { xnjs } = await makeCertificates(target);
  const lines = [
    'tsi.keystore = /etc/vsite/key.pem',
    'tsi.certificate = /etc/vsite/cert.pem',
    'tsi.truststore = /etc/vsite/ca.pem',
    'tsi.allowed_dn.1 = CN=XNJS 1,O=Grid,C=EU',
  ];
  writeFileSync(join(target, 'tsi.properties'), `${lines.join('\n')}\n`, { flag: 'a' });
  const ofServer = { keyFile: join(directory, 'key.pem'), certFile: join(directory, 'cert.pem') };
  writeFileSync(ofServer.keyFile, xnjs.key);
  writeFileSync(ofServer.certFile, xnjs.cert);
  return { ofServer, ofTsi: { dn: 'CN=TSI,O=Grid', ca: xnjs.ca } };
}
