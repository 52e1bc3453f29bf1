import { GridError } from '#kernel/errors.js';

/** A file or directory of a storage. `path` begins with `/`. */
export type RemotePath = { readonly storageId: string; readonly path: string };

const id = '[A-Za-z0-9][A-Za-z0-9_-]*';
const pattern = new RegExp(`^(?:(job|site)/)?(${id}):(.*)$`, 's');
const storageOf = {
  job: (name: string) => `${name}-uspace`,
  site: (name: string) => `${name}-HOME`,
};

/**
 * `job/<id>:out.txt`, `site/<id>:data/x` (the home directory there), `<storage>:x`.
 * @returns `undefined` for a path on this machine: one without a colon, or that begins with `.` or `/`
 */
export function parseRemotePath(text: string): RemotePath | undefined {
  const [, kind, name = '', path = ''] = pattern.exec(text) ?? [];
  if (name === '') return undefined;
  const storageId = kind === undefined ? name : storageOf[kind === 'job' ? 'job' : 'site'](name);
  return { storageId, path: `/${path.replace(/^\/+/, '')}` };
}

/** @throws `BAD_REQUEST` it is a path on this machine */
export function requireRemotePath(text: string): RemotePath {
  const remote = parseRemotePath(text);
  if (remote) return remote;
  throw new GridError(
    'BAD_REQUEST',
    `${text}: must name a storage, such as job/<id>:stdout or site/<id>:data`,
  );
}
