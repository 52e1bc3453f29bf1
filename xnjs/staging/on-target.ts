import { normalisePath } from '../files/path.js';
import { quote } from '../incarnation/quote.js';
import { targetOf } from './staging.js';
import type { Transfer } from './transfer.js';

/** Absolute path of a file of the job's directory. */
export async function absolute(
  { site }: Pick<Transfer<unknown>, 'site'>,
  path: string,
): Promise<string> {
  return (await site.files.mountPoint()) + normalisePath(path).slice(1);
}

/** What of a transfer is not complete yet, by absolute path. */
export async function partOf({
  site,
  id,
}: Pick<Transfer<unknown>, 'site' | 'id'>): Promise<string> {
  return `${await site.files.mountPoint()}${partName(id)}`;
}

export function partName(id: string): string {
  return `.UNICORE_${id}.part`;
}

/** Runs shell text as the user, with the job's umask. @returns what it printed */
export async function run(
  { site, signal }: Pick<Transfer<unknown>, 'site' | 'signal'>,
  script: string,
): Promise<string> {
  const { identity } = targetOf(site);
  return await site.tsi().execute(identity, `umask ${site.files.umask}\n${script}`, { signal });
}

/** Shell text that moves a complete part to its place. */
export function moveIntoPlace(part: string, target: string, permissions?: string): string {
  const parent = target.slice(0, Math.max(1, target.lastIndexOf('/')));
  const [from, to] = [quote(part), quote(target)];
  return [
    `if [ -d ${to} ] && [ ! -d ${from} ]; then echo ${quote(`${target} is a directory`)}; exit 1; fi`,
    `mkdir -p -- ${quote(parent)} || exit 1`,
    ...(permissions === undefined ? [] : [`chmod ${chmodMode(permissions)} -- ${from} || exit 1`]),
    `mv -fT -- ${from} ${to}`,
  ].join('\n');
}

/** `rwxr-x` as chmod's `u=rwx,g=rx`: groups that are not given stay. */
export function chmodMode(permissions: string): string {
  const groups = permissions.match(/.../g) ?? [];
  return groups
    .map((group, i) => `${'ugo'.charAt(i)}=${group.replace(/[st]/, 'x').replace(/[-ST]/g, '')}`)
    .join(',');
}
