import { z } from 'zod';
import { authenticated, everybody, operations, RequestError } from '#kernel/http/operation.js';
import { text } from '#kernel/http/reply.js';
import type { Caller } from '#kernel/http/caller.js';
import type { AuthenticatedCaller } from '#kernel/security/caller.js';
import { formatPreferences } from '#kernel/security/preferences.js';
import { answersWith } from '#kernel/http/answers.js';

import type { RestDeps } from './deps.js';

const operation = operations<RestDeps>();
const plain = 'text/plain';
const longestSeconds = 30 * 86_400;

/** What callers are who have not been made by the authenticator, in tests, lacks some of it. */
type Issuing = Caller & Partial<AuthenticatedCaller>;

/** `GET /token` (unicore-rest 2.9): lets a program act for the caller for a while. */
const getToken = operation({
  method: 'GET',
  path: '/token',
  summary: 'A delegation token for the caller, signed by this server',
  input: z.object({
    lifetime: z.coerce.number().int().min(1).max(longestSeconds).default(300),
    renewable: z.stringbool().default(false),
    limited: z.stringbool().default(false),
  }),
  produces: [plain],
  answers: answersWith(plain),
  id: 'getToken',
  tag: 'core',
  policy: authenticated,
  run: async ({ issueToken, credential, clock }, { lifetime, renewable, limited }, { caller }) => {
    const { login, method, preferences = {}, renewable: mayRenew } = caller as Issuing;
    if (method === 'ETD' && !mayRenew)
      throw new RequestError('FORBIDDEN', 'Error creating token: this one is not renewable');
    if (clock.now() + lifetime * 1_000 > credential.expiresMs)
      throw new RequestError('BAD_REQUEST', "lifetime: outlives the server's certificate");
    const token = await issueToken({
      subject: caller.dn,
      lifetimeSeconds: lifetime,
      renewable,
      limited,
      login,
      preferences: formatPreferences(preferences),
    });
    return text(token);
  },
});

const getCertificate = operation({
  method: 'GET',
  path: '/certificate',
  summary: 'The certificate of this server; its key signs tokens',
  input: z.object({}),
  produces: [plain],
  answers: answersWith(plain),
  id: 'getCertificate',
  tag: 'core',
  policy: everybody,
  run: ({ credential }) => text(credential.pem),
});

export const tokenOperations = [getToken, getCertificate];
