import { z } from 'zod';
import { loadConfig } from '#kernel/config.js';
import { errorText } from '#kernel/errors.js';
import { account } from './account.js';
import type { AttributeSource, AttributeValues } from './attributes.js';
import { parseDnPattern } from './dn-pattern.js';
import { watchFile, type WatchOptions } from './watched-file.js';

const member = z
  .string()
  .max(1024)
  .superRefine((text, context) => {
    try {
      parseDnPattern(text);
    } catch (error) {
      context.addIssue(errorText(error));
    }
  });

/** Virtual organisations by name, and what their members are here. */
const VoFile = z.strictObject({
  vos: z.record(
    z.string().regex(/^[^\0\r\n,:]{1,256}$/, 'must be a name without commas or colons'),
    z.strictObject({
      /** Names or patterns of names; also a member is whose token says so. */
      members: z.array(member).max(100_000).default([]),
      /** A group of an identity provider that means this organisation; default: its name. */
      claim: z.string().min(1).max(256).optional(),
      role: z.enum(['user', 'banned']).optional(),
      logins: z.array(account).max(100).default([]),
      groups: z.array(account).max(100).default([]),
      queues: z.array(z.string().min(1).max(64)).max(100).optional(),
    }),
  ),
});
type Vo = z.output<typeof VoFile>['vos'][string];

/**
 * Attributes of members of virtual organisations; who is one, a file says or the user's bearer token.
 * @throws `CONFIG_INVALID` when the first reading fails
 */
export async function openVos(
  options: WatchOptions & { readonly path: string },
): Promise<AttributeSource> {
  const file = await watchFile(options.path, readVos, options);
  return {
    name: `virtual organisations of ${options.path}`,
    async find({ dn, claims, vo: chosen }) {
      const claimed = claims?.vos ?? [];
      const mine = (await file.current()).filter(
        ({ name, vo, fits }) =>
          claimed.includes(vo.claim ?? name) || fits.some((matches) => matches(dn)),
      );
      const vos = mine.map(({ name }) => name);
      const counted = chosen === undefined ? mine : mine.filter(({ name }) => name === chosen);
      if (mine.length === 0) return undefined;
      // Whether he may choose it is for whoever knows all sources
      return counted.length === 0 ? { vos } : { vos, ...valuesOf(counted.map(({ vo }) => vo)) };
    },
  };
}

function valuesOf(vos: readonly Vo[]): AttributeValues {
  const all = <T>(list: (vo: Vo) => readonly T[]): T[] => [...new Set(vos.flatMap(list))];
  const roles = all(({ role }) => (role === undefined ? [] : [role]));
  const logins = all(({ logins: each }) => each);
  const groups = all(({ groups: each }) => each);
  // one that says nothing of queues allows all of them
  const limited = vos.every(({ queues }) => queues !== undefined);
  return {
    ...(roles.length > 0 && { roles }),
    ...(logins.length > 0 && { logins }),
    ...(groups.length > 0 && { groups }),
    ...(limited && { queues: all(({ queues = [] }) => queues) }),
  };
}

async function readVos(path: string) {
  const { vos } = await loadConfig(path, VoFile);
  return Object.entries(vos).map(([name, vo]) => ({
    name,
    vo,
    fits: vo.members.map(parseDnPattern),
  }));
}
