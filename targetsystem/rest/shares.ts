import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { anonymous, type Caller } from '#kernel/http/caller.js';
import { answersCreated, answersJson, answersNothing } from '#kernel/http/answers.js';
import { operations, RequestError } from '#kernel/http/operation.js';
import { pageParameters } from '#kernel/http/page.js';
import { created, json, noContent } from '#kernel/http/reply.js';
import { attributesOf } from '#kernel/security/caller.js';
import {
  askingForLogin,
  authenticated,
  capability,
  resourcePolicies,
  type Policy,
} from '#kernel/security/policy.js';
import { normalizeDn } from '#kernel/security/dn.js';
import { isSharedBy, principalOf, type Share } from '#xnjs/index.js';
import { Changes, type Rendered } from './answers.js';
import { fileErrors } from './answers-errors.js';
import {
  answersBytes,
  downloadErrors,
  recordErrors,
  Share as ShareAnswer,
  SharedDirectory,
  ShareList,
  ShareServers,
} from './answers-data.js';
import { changeMembers, member, type Changeable } from './changes.js';
import type { RestDeps } from './deps.js';
import { renderEntry } from './files.js';
import { attachment, bytesType, download } from './files-download.js';
import { linksFrom } from './links.js';

const operation = operations<RestDeps>();
const server = { server: z.string().max(64) };
const one = { ...server, shareId: z.string().max(64) };

/** This server is the only one that shares are kept for. */
function refuseOthers({ siteName }: RestDeps, name: string): void {
  if (name !== siteName) throw new RequestError('NOT_FOUND', `there is no server ${name} here`);
}

const loggedIn = askingForLogin(authenticated);
type ShareInput = { readonly server: string; readonly shareId: string };
/** Whom it is not for learns nothing of it. @throws `NOT_FOUND` */
const policies = resourcePolicies<RestDeps, ShareInput>(
  'share',
  (deps, { server: name, shareId }, caller) => {
    refuseOthers(deps, name);
    const { ownerDn, user } = deps.data.shares.find(shareId, caller);
    return { ownerDn, acl: [`read:DN:${user === anonymous.dn ? caller.dn : user}`] };
  },
);
/** Strangers are told to log in whether there is such a share or not. */
const knownFirst = (
  policy: Policy<RestDeps, ShareInput>,
  description: string,
): Policy<RestDeps, ShareInput> =>
  askingForLogin({
    ...policy,
    description,
    decide: (caller, deps, input) =>
      caller.role === 'anonymous'
        ? { allowed: false, why: 'nobody known' }
        : policy.decide(caller, deps, input),
  });
const onShare = {
  read: knownFirst(
    policies.read,
    'the owner of the share, administrators, and whom it is shared with',
  ),
  own: knownFirst(policies.own, policies.own.description),
};

function userInfo(caller: Caller): Rendered<typeof ShareServers>['userInfo'] {
  const { groups, group } = attributesOf(caller);
  return { dn: caller.dn, uid: caller.login, gid: group, groups };
}

function renderShare(
  share: Share,
  caller: Caller,
  baseUrl: string,
  name: string,
): Rendered<typeof ShareAnswer> {
  const { id, user, ownerDn, storageId, path, access, terminationMs } = share;
  const links = linksFrom(baseUrl);
  return {
    id,
    user,
    owner: ownerDn,
    path: `/${storageId}${path}`,
    access,
    directory: share.isDirectory,
    lifetime:
      terminationMs === undefined ? 0 : Math.ceil((terminationMs - share.createdMs) / 1_000),
    onetime: share.isOneTime,
    accessCount: share.accessCount,
    http: links.access(name, id),
    href: links.share(name, id),
    ...(terminationMs !== undefined && { terminationTime: formatDate(terminationMs) }),
    ...(isSharedBy(share, caller) && {
      accesses: share.accesses.map(({ atMs, ...use }) => ({ time: formatDate(atMs), ...use })),
    }),
  };
}

const listServers = operation({
  method: 'GET',
  path: '/',
  summary: 'The servers that files can be shared on: this one',
  input: z.object({}),
  answers: answersJson(ShareServers),
  id: 'listShareServers',
  tag: 'shares',
  policy: loggedIn,
  run: ({ siteName }, _input, { caller, url }) => {
    const description = 'Files of the storages of this site';
    return json({
      [siteName]: { href: `${url}/${siteName}`, description, status: 'OK' },
      userInfo: userInfo(caller),
    });
  },
});

const listShares = operation({
  method: 'GET',
  path: '/:server',
  summary: 'What the caller shares, and what is shared with him',
  input: z.object(server),
  answers: answersJson(ShareList),
  id: 'listShares',
  tag: 'shares',
  policy: loggedIn,
  run: (deps, { server: name }, { caller, baseUrl }) => {
    refuseOthers(deps, name);
    const { shares, accessible } = deps.data.shares.of(caller.dn);
    const render = (share: Share) => renderShare(share, caller, baseUrl, name);
    return json({
      shares: shares.map(render),
      accessible: accessible.map(render),
      status: 'OK',
      userInfo: userInfo(caller),
    });
  },
});

const lifetime = z.coerce.number().int().nonnegative();
const flag = z.union([z.boolean(), z.stringbool()], 'must be true or false');
const access = z
  .string()
  .toUpperCase()
  .pipe(z.enum(['READ', 'WRITE']));
const user = z
  .string('name the user, by his DN, or anonymous')
  .max(1_000)
  .transform((text, context) => {
    if (/^anonymous$/i.test(text)) return anonymous.dn;
    try {
      return normalizeDn(text);
    } catch {
      context.addIssue('is no distinguished name');
      return z.NEVER;
    }
  });
/** `/STORAGE/path`, or the address of a file. */
const sharedPath = z.string('name what to share').transform((text, context) => {
  const [, id, rest = '/'] =
    /^https?:\/\/.*\/rest\/core\/storages\/([^/?#]+)\/files(\/.*)?$/.exec(text) ?? [];
  if (id !== undefined)
    try {
      return { storageId: id, path: decodeURIComponent(rest) };
    } catch {
      context.addIssue('is not percent-encoded');
      return z.NEVER;
    }
  const [, storageId, path = '/'] = /^\/+([^/]{1,80})(\/.*)?$/.exec(text) ?? [];
  if (storageId !== undefined) return { storageId, path };
  context.addIssue('must be /STORAGE/path, or the address of a file');
  return z.NEVER;
});

const share = operation({
  method: 'POST',
  path: '/:server',
  summary: 'Shares a file or directory with a user or with everybody, or ends that',
  input: z.looseObject({
    ...server,
    user,
    path: sharedPath,
    access: z
      .string()
      .toUpperCase()
      .pipe(z.enum(['READ', 'WRITE', 'NONE']))
      .default('READ'),
    lifetime: lifetime.nullish(),
    onetime: flag.nullish(),
    group: z.null('cannot be chosen here').optional(),
  }),
  body: 'json',
  answers: { ...answersCreated, ...answersNothing },
  errors: recordErrors,
  id: 'shareFiles',
  tag: 'shares',
  policy: loggedIn,
  run: async (deps, { server: name, ...input }, { caller, baseUrl }) => {
    refuseOthers(deps, name);
    const wish = { principal: principalOf(caller), user: input.user, ...input.path };
    if (input.access === 'NONE') {
      await deps.data.shares.revoke(wish);
      return noContent();
    }
    const { id } = await deps.data.shares.create({
      ...wish,
      access: input.access,
      isOneTime: input.onetime ?? false,
      lifetimeSeconds: input.lifetime ?? undefined,
    });
    return created(linksFrom(baseUrl).share(name, id));
  },
});

const showShare = operation({
  method: 'GET',
  path: '/:server/:shareId',
  summary: 'One share; who owns it also sees its latest uses',
  input: z.object(one),
  answers: answersJson(ShareAnswer),
  id: 'getShare',
  tag: 'shares',
  policy: onShare.read,
  run: (deps, { server: name, shareId }, { caller, baseUrl }) =>
    json(renderShare(deps.data.shares.find(shareId, caller), caller, baseUrl, name)),
});

type ShareChange = { access: 'READ' | 'WRITE'; isOneTime: boolean; lifetimeSeconds: number };
const changeable: Changeable<ShareChange> = {
  access: member(access, (change, level) => (change.access = level)),
  onetime: member(flag, (change, isOneTime) => (change.isOneTime = isOneTime)),
  lifetime: member(lifetime, (change, seconds) => (change.lifetimeSeconds = seconds)),
};

const changeShare = operation({
  method: 'PUT',
  path: '/:server/:shareId',
  summary: 'Changes access, onetime or lifetime of a share; the lifetime counts from now',
  input: z.looseObject(one),
  body: 'json',
  answers: answersJson(Changes),
  id: 'changeShare',
  tag: 'shares',
  policy: onShare.own,
  run: async ({ data }, { shareId, ...input }) => {
    const named = Object.entries(input).filter(([name]) => name !== 'server');
    const answers = await changeMembers(Object.fromEntries(named), changeable, (change) =>
      data.shares.update(shareId, change),
    );
    return json(answers);
  },
});

const endShare = operation({
  method: 'DELETE',
  path: '/:server/:shareId',
  summary: 'Ends a share',
  input: z.object(one),
  answers: answersNothing,
  id: 'endShare',
  tag: 'shares',
  policy: onShare.own,
  run: async (deps, { shareId }) => {
    await deps.data.shares.records.remove(shareId);
    return noContent();
  },
});

/** Below `/rest/share`. */
export const shareOperations = [listServers, listShares, share, showShare, changeShare, endShare];

/** Of what is shared with everybody the address is the proof; else who asks is looked at with the share. */
const accessPolicy = {
  ...capability,
  description: 'whom it is shared with; whoever knows the address, if that is everybody',
};
const accessPath = '/:server/:shareId{/*path}';
const accessInput = { ...one, path: z.string().max(4096).default('') };

const read = operation({
  method: 'GET',
  path: accessPath,
  summary: 'The bytes of a shared file, or the listing of a shared directory',
  input: z.object({ ...accessInput, ...pageParameters(10_000) }),
  produces: [bytesType, 'application/json'],
  answers: { ...answersBytes, 200: { ...answersBytes[200], body: SharedDirectory } },
  errors: [...downloadErrors, 'LOGIN_REQUIRED'],
  id: 'readShared',
  tag: 'shares',
  policy: accessPolicy,
  run: async (deps, { server: name, shareId, path: below, ...page }, context) => {
    refuseOthers(deps, name);
    const { headers, signal, caller } = context;
    const used = await deps.data.shares.use(shareId, caller, below, 'READ');
    const { files, path, entry } = used;
    if (entry?.isDirectory !== true)
      return download(files, entry ?? (await files.stat(path)), {
        ...{ headers, signal, nowMs: deps.clock.now() },
        disposition: attachment(path),
      });
    const { entries } = await files.list(path, page);
    const nameOf = (each: string): string =>
      used.share.path === '/' ? each : each.slice(used.share.path.length);
    const content = entries.map((each): [string, object] => [
      `${nameOf(each.path)}${each.isDirectory ? '/' : ''}`,
      renderEntry(each),
    ]);
    return json({ isDirectory: true, content: Object.fromEntries(content) });
  },
});

const write = operation({
  method: 'PUT',
  path: accessPath,
  summary: 'Writes a shared file, or one in a shared directory',
  input: z.object(accessInput),
  body: 'raw',
  answers: answersNothing,
  errors: [...fileErrors, 'LOGIN_REQUIRED'],
  id: 'writeShared',
  tag: 'shares',
  policy: accessPolicy,
  run: async (deps, { server: name, shareId, path: below }, context) => {
    refuseOthers(deps, name);
    const { signal, caller } = context;
    const { files, path } = await deps.data.shares.use(shareId, caller, below, 'WRITE');
    await files.write(path, context.body, { signal });
    return noContent();
  },
});

/** Below `/rest/access`: no login needed for what is shared with everybody. */
export const accessOperations = [read, write];
