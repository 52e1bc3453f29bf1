import { TsiError } from './error.js';
import { refuse, type Scalar } from './scalars.js';

/** Whom an entry is for; an empty subject is the owner or the group of the file. */
export type AclSubject = {
  readonly type: 'user' | 'group';
  readonly subject: string;
  /** Of a directory: for what is made in it. */
  readonly isDefault: boolean;
};
/** `permissions` like `r-x` */
export type AclEntry = AclSubject & { readonly permissions: string };

/** `#TSI_ACL_COMMAND` and `#TSI_ACL_COMMAND_SPEC` (§2.10); `RM_ALL` needs no entry. */
export type AclChange = {
  readonly operation: AclCommand['command'];
  readonly recursive?: boolean;
  readonly entry?: AclEntry;
};

export const aclCommands = ['RM_ALL', 'MODIFY', 'RM'] as const;
export type AclCommand = {
  readonly command: (typeof aclCommands)[number];
  readonly recursive: boolean;
};
/** As on the wire: whoever removes an entry need not say its rights. */
export type AclSpec = AclSubject & { readonly permissions?: string };

const permissions = /^[r-][w-][xX-]$/;
/** One entry of setfacl's is made of it: nothing that separates entries or their parts. */
const subject = /^(?:[A-Za-z0-9_][A-Za-z0-9_.@$-]{0,254})?$/;

export const aclCommand: Scalar<AclCommand> = {
  write: ({ command, recursive }) => (recursive ? `${command} RECURSIVE` : command),
  read: (text) => {
    const [word, ...more] = text.trim().split(/ +/);
    const command = aclCommands.find((known) => known === word);
    const recursive = more.length === 1 && more[0] === 'RECURSIVE';
    if (!command || (more.length > 0 && !recursive)) refuse('not a change of access rights');
    return { command, recursive };
  },
};

export const aclSpec: Scalar<AclSpec> = {
  write: (spec) => {
    if (!subject.test(spec.subject))
      refuse('not a name of a user or group', { name: spec.subject });
    if (spec.permissions !== undefined && !permissions.test(spec.permissions))
      refuse('access rights are three characters like r-x', { permissions: spec.permissions });
    const who = `${spec.isDefault ? 'D' : ''}${spec.type === 'user' ? 'U' : 'G'}`;
    return [who, spec.subject, spec.permissions ?? '---'].join(' ');
  },
  read: (text) => {
    if (text === 'NONE') return undefined;
    const [who = '', name = '', letters] = text.split(' ');
    const [, inherited, kind] = /^(D?)([UG])$/.exec(who) ?? refuse('not an access control entry');
    if (!subject.test(name)) refuse('not a name of a user or group');
    if (letters !== undefined && !permissions.test(letters)) refuse('not access rights');
    return {
      type: kind === 'U' ? 'user' : 'group',
      subject: name,
      isDefault: inherited === 'D',
      ...(letters !== undefined && { permissions: letters }),
    };
  },
};

const line = /^(default:)?(user|group):([^:]*):([r-][w-][xX-])/;

/** What getfacl prints, without what the protocol leaves out: mask, others, comments. */
export function filterAcl(printed: string): string {
  return printed
    .split('\n')
    .flatMap((text) => line.exec(text)?.[0] ?? [])
    .join('\n');
}

export function decodeAcl(payload: string): AclEntry[] {
  return payload
    .split('\n')
    .filter((text) => text.trim() !== '')
    .map((text) => {
      const [, inherited, type, name = '', letters] = line.exec(text) ?? [];
      if ((type !== 'user' && type !== 'group') || letters === undefined) malformed(text);
      return { type, subject: name, isDefault: inherited !== undefined, permissions: letters };
    });
}

export function decodeAclSupport(payload: string): boolean {
  const answer = { true: true, false: false }[payload.trim()];
  return answer ?? malformed(payload);
}

function malformed(text: string): never {
  throw new TsiError('TSI_PROTOCOL', 'the TSI sends access rights that cannot be read', {
    line: text.slice(0, 200),
  });
}
