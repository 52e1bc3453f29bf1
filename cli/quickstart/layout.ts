import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';

/** Where everything of one installation lies. */
export type Layout = ReturnType<typeof layoutOf>;

export function layoutOf(stateDir: string) {
  return {
    state: stateDir,
    config: join(stateDir, 'config'),
    credentials: join(stateDir, 'credentials'),
    users: join(stateDir, 'users.yaml'),
    /** Password of the image creator, made at random. */
    creatorPassword: join(stateDir, 'credentials', 'creator.password'),
    demoPassword: join(stateDir, 'credentials', 'demo-user.password'),
    /** Unix sockets of the services. */
    run: join(stateDir, 'run'),
    libvirt: join(stateDir, 'libvirt'),
    log: join(stateDir, 'vsite.log'),
    serverRecord: join(stateDir, 'run', 'server.json'),
  };
}

const isRoot = process.getuid?.() === 0;

/** Containers need a path that all users may walk along, which a home directory is not. */
export function defaultStateDirectory(): string {
  if (isRoot) return '/var/lib/vsite';
  return join(process.env['XDG_STATE_HOME'] ?? join(homedir(), '.local', 'state'), 'vsite');
}

/** Kept between installations: demo images, libvirt's knowledge of QEMU. */
export function defaultCacheDirectory(): string {
  if (isRoot) return '/var/cache/vsite';
  return join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'vsite');
}

/** Short, for unix sockets lie below it. */
export const temporaryStatePrefix = join(tmpdir(), 'vsite-once-');
