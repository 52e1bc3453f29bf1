import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { projectRoot } from '#kernel/project-root.js';
import { createCredentials, type Credentials } from '#kernel/security/credentials.js';
import { addUser } from '#kernel/security/users.js';
import { profileName } from '../client/profile.js';
import { serviceNames } from '../serve.js';
import type { Layout } from './layout.js';

const templates = join(projectRoot, 'config');

/** The account of UNICORE's own demonstrations; the gateway listens on this machine only. */
export const demoUser = { name: 'demouser', password: 'test123' } as const;
export const creatorName = 'creator';

export type SiteAddress = { readonly host: string; readonly port: number };

/** Certificates and users of an installation. What exists is kept. */
export async function writeIdentities(layout: Layout): Promise<Credentials> {
  await mkdir(layout.state, { recursive: true, mode: 0o711 });
  const credentials = await createCredentials({ directory: layout.credentials });
  if (await exists(layout.users)) return credentials;
  const password = randomBytes(18).toString('base64url');
  await writeFile(layout.creatorPassword, `${password}\n`, { mode: 0o600 });
  await writeFile(layout.demoPassword, `${demoUser.password}\n`, { mode: 0o600 });
  const draft = `${layout.users}.new`;
  await writeFile(draft, 'users: []\n', { mode: 0o600 });
  await addUser(draft, { ...demoUser, dn: credentials.user.dn, role: 'user' });
  await addUser(draft, {
    name: creatorName,
    dn: 'CN=Image Creator,O=VSite,C=EU',
    role: 'user',
    password,
  });
  await rename(draft, layout.users);
  return credentials;
}

export type Hypervisors = {
  readonly machines: string;
  readonly containers?: string | undefined;
  readonly acceleration: 'kvm' | 'qemu';
};

/** Fills in the templates of `config/`; what is there is replaced, for the addresses may have changed. */
export async function writeConfiguration(
  layout: Layout,
  { host, port }: SiteAddress,
  hypervisors: Hypervisors,
): Promise<void> {
  const values: Record<string, string> = {
    HOST: host,
    PORT: String(port),
    URL: siteUrl({ host, port }),
    STATE: layout.state,
    CREDENTIALS: layout.credentials,
    RUN: layout.run,
    MACHINES: hypervisors.machines,
    ACCELERATION: hypervisors.acceleration,
    CONTAINERS: hypervisors.containers ?? '',
  };
  await mkdir(layout.config, { recursive: true, mode: 0o700 });
  await mkdir(layout.run, { recursive: true, mode: 0o700 });
  for (const name of serviceNames) {
    const template = await readFile(join(templates, `${name}.yaml`), 'utf8');
    const lines = template
      .split('\n')
      .map((line) => line.replace(/\$([A-Z]+)/g, (_, key: string) => values[key] ?? ''))
      // a setting without a value here, such as containers where there are none
      .filter((line) => !/^\s*containers:\s*$/.test(line));
    await writeFile(join(layout.config, `${name}.yaml`), lines.join('\n'), { mode: 0o600 });
  }
  await writeProfiles(layout, siteUrl({ host, port }));
}

/** With them, `vsite` commands on this machine know where to go, and as whom. */
async function writeProfiles(layout: Layout, url: string): Promise<void> {
  const caFile = join(layout.credentials, 'ca.pem');
  for (const [name, user, passwordFile] of [
    [profileName, demoUser.name, layout.demoPassword],
    ['creator.yaml', creatorName, layout.creatorPassword],
  ] as const) {
    const profile = stringify({ url, caFile, user, passwordFile });
    await writeFile(join(layout.state, name), profile, { mode: 0o600 });
  }
}

export function siteUrl({ host, port }: SiteAddress): string {
  return `https://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
