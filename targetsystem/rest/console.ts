import { z } from 'zod';
import { operations, RequestError, type Context } from '#kernel/http/operation.js';
import { text } from '#kernel/http/reply.js';
import { asksForWebSocket, checkHandshake, webSocket } from '#kernel/http/websocket.js';
import { decide } from '#kernel/security/policy.js';
import { machineErrors } from './answers-errors.js';
import type { RestDeps } from './deps.js';
import { permissionOf } from './permission.js';
import { onSite, siteInput } from './policy.js';

const operation = operations<RestDeps>();
const path = '/sites/:siteId/console';
const flag = z.stringbool('must be true or false').default(false);

/** Whoever may read the log may watch; to type is more: a console may have a shell of root's behind it. */
const getConsole = operation({
  method: 'GET',
  path,
  summary:
    'The end of what the machine wrote to its console; with Upgrade: websocket the console itself, ' +
    'both ways',
  input: z.object({
    ...siteInput,
    watch: flag.describe('Of a WebSocket: only looks on, for which the right to read is enough'),
    force: flag.describe('Of a WebSocket: takes the console over from whoever types there'),
  }),
  answers: {
    101: { description: 'From here on a WebSocket: each message is bytes of the console' },
    200: { types: ['text/plain'] },
  },
  errors: [...machineErrors, 'LIMIT_REACHED'],
  id: 'getConsole',
  tag: 'sites',
  policy: onSite.read,
  produces: ['text/plain'],
  run: async (deps, { siteId, watch, force }, context) => {
    const { systems, consoles } = deps;
    if (!asksForWebSocket(context)) return text(await systems.consoles.tail(siteId));
    checkHandshake(context, consoles.origins);
    if (!watch) await requireModify(deps, siteId, context);
    const { caller, signal, log } = context;
    const policy = watch ? onSite.read : onSite.modify;
    const permission = permissionOf(policy, `GET ${path}`, { deps, input: { siteId }, context });
    const wish = { siteId, dn: caller.dn, writes: !watch, force: !watch && force };
    const opened = await consoles.open({ ...wish, permission, signal });
    return webSocket((socket) => opened.join(socket, log));
  },
});

/** @throws `FORBIDDEN` */
async function requireModify(
  deps: RestDeps,
  siteId: string,
  { caller, audit, url }: Context,
): Promise<void> {
  const decision = await decide(onSite.modify, caller, deps, { siteId });
  const operation = `GET ${path} (to type)`;
  audit?.({ what: 'access', ...decision, caller, operation, resource: url });
  if (!decision.allowed)
    throw new RequestError('FORBIDDEN', 'access denied: watch=true may be allowed');
}

export const consoleOperations = [getConsole];
