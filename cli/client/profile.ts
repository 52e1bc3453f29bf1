import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { z } from 'zod';
import { file, loadConfig } from '#kernel/config.js';
import { GridError } from '#kernel/errors.js';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import { createTypedClient, type TypedClient } from '#kernel/http/typed-client.js';
import type { ImageOperation } from '#imagerepo/operations.js';
import type { CoreOperation } from '#targetsystem/rest/operations.js';
import { defaultStateDirectory } from '../quickstart/layout.js';

/** How a person reaches an installation. Relative paths are taken from where the file lies. */
export const Profile = z.strictObject({
  /** Of the gateway, `https://grid.example:8443`. */
  url: z.url({ protocol: /^https$/, error: 'must be an https URL' }),
  /** Certificate of the authority that the gateway's certificate is from; absent: the system's. */
  caFile: file.optional(),
  user: z.string().optional(),
  passwordFile: file.optional(),
  /** A client certificate instead of user and password. */
  certFile: file.optional(),
  keyFile: file.optional(),
  /** Names of the target system site and of the image repository at the gateway. */
  site: z.string().default('VSITE'),
  images: z.string().default('IMAGES'),
});
export type Profile = z.output<typeof Profile>;

export const profileName = 'client.yaml';

/** `VSITE_PROFILE`, the user's own file, the one that a quickstart on this machine has written. */
export function profilePaths(env: NodeJS.ProcessEnv = process.env): string[] {
  const configHome = env['XDG_CONFIG_HOME'] ?? join(homedir(), '.config');
  const named = env['VSITE_PROFILE'];
  return named !== undefined
    ? [named]
    : [join(configHome, 'vsite', profileName), join(defaultStateDirectory(), profileName)];
}

/** An installation as one user sees it through the gateway. */
export type Session = AsyncDisposable & {
  readonly client: HttpClient;
  /** The target system service and the image repository, call by call. */
  readonly service: TypedClient<CoreOperation>;
  readonly repository: TypedClient<ImageOperation>;
  /** The service's path at the gateway: `/VSITE/rest/core`. */
  readonly core: string;
};

/** @throws `CONFIG_INVALID` no profile, or one that cannot be used */
export async function openSession(named?: string): Promise<Session> {
  const { path, profile } = await findProfile(named);
  const read = (name: string): Promise<string> =>
    readFile(resolve(dirname(path), name), 'utf8').catch((cause: unknown) => {
      throw new GridError('CONFIG_INVALID', `${path}: ${String(cause)}`, {}, { cause });
    });
  const { caFile, certFile, keyFile } = profile;
  const client = createHttpClient({
    baseUrl: profile.url,
    tls: {
      ...(caFile !== undefined && { ca: await read(caFile) }),
      ...(certFile !== undefined && { cert: await read(certFile) }),
      ...(keyFile !== undefined && { key: await read(keyFile) }),
    },
    ...(await credentials(profile, read)),
  });
  const core = `/${profile.site}/rest/core`;
  return {
    client,
    service: createTypedClient<CoreOperation>(client, core),
    repository: createTypedClient<ImageOperation>(client, `/${profile.images}/rest/images`),
    core,
    [Symbol.asyncDispose]: () => client.close(),
  };
}

async function findProfile(named?: string): Promise<{ path: string; profile: Profile }> {
  const paths = named === undefined ? profilePaths() : [named];
  for (const path of paths) {
    const exists = await readFile(path).then(
      () => true,
      () => false,
    );
    if (exists) return { path: resolve(path), profile: await loadConfig(path, Profile) };
  }
  throw new GridError(
    'CONFIG_INVALID',
    `there is no profile that says where the installation is: ${paths.join(', ')}; ` +
      'see docs/command-line.md',
  );
}

async function credentials(
  { user, passwordFile }: Profile,
  read: (path: string) => Promise<string>,
): Promise<{ auth?: { user: string; password: string } }> {
  if (user === undefined) return {};
  const password =
    process.env['VSITE_PASSWORD'] ??
    (passwordFile === undefined ? undefined : (await read(passwordFile)).trimEnd());
  if (password !== undefined) return { auth: { user, password } };
  throw new GridError(
    'CONFIG_INVALID',
    `no password for ${user}: set passwordFile in the profile, or VSITE_PASSWORD`,
  );
}
