import { z } from 'zod';
import { answersJson } from '#kernel/http/answers.js';
import { adminOnly, operations } from '#kernel/http/operation.js';
import { pageParameters } from '#kernel/http/page.js';
import { json } from '#kernel/http/reply.js';
import { normalizeDn } from '#kernel/security/dn.js';
import { Accounting } from './answers.js';
import type { RestDeps } from './deps.js';
import { dateText } from './properties.js';
import { renderAccount } from './usage-rendering.js';

const operation = operations<RestDeps>();

const listAccounting = operation({
  method: 'GET',
  path: '/accounting',
  summary: 'What target systems have used, those that are gone too, the newest first',
  input: z.object({
    ...pageParameters(),
    owner: z.string().max(1_024).optional(),
    /** Those of which a part lies after it. */
    since: dateText.optional(),
  }),
  answers: answersJson(Accounting),
  id: 'listAccounting',
  tag: 'admin',
  policy: adminOnly,
  run: async ({ systems }, { owner, since, ...page }) => {
    const ownerDn = owner === undefined ? undefined : normalizeDn(owner);
    const { usages, total } = await systems.accounts({ ownerDn, sinceMs: since }, page);
    return json({ accounting: usages.map(renderAccount), total });
  },
});

export const accountingOperations = [listAccounting];
