import { Readable } from 'node:stream';
import { z } from 'zod';
import { operations } from '#kernel/http/operation.js';
import { stream } from '#kernel/http/reply.js';
import { asksForWebSocket, asStream, checkHandshake, webSocket } from '#kernel/http/websocket.js';
import type { TargetSystems } from '#xnjs/index.js';
import { machineErrors } from './answers-errors.js';
import { CarriedConnections, type CarryingConfig } from './carried-connections.js';
import type { RestDeps } from './deps.js';
import { permissionOf } from './permission.js';
import { onSite, siteInput } from './policy.js';

const operation = operations<RestDeps>();
const path = '/sites/:siteId/screen';

/** Whoever sees it may type and click: that is the protocol (RFC 6143), so it takes the right to modify. */
const getScreen = operation({
  method: 'GET',
  path,
  summary:
    'A picture of the screen of a machine that has one; with Upgrade: websocket the screen itself, by VNC',
  input: z.object(siteInput),
  answers: {
    101: { description: 'From here on a WebSocket: its messages are the bytes of RFB (RFC 6143)' },
    200: { types: ['image/png'] },
  },
  errors: [...machineErrors, 'LIMIT_REACHED'],
  id: 'getScreen',
  tag: 'sites',
  policy: onSite.modify,
  produces: ['image/png'],
  run: async (deps, { siteId }, context) => {
    const { systems, screens, consoles } = deps;
    if (!asksForWebSocket(context))
      return stream(Readable.from([await systems.consoles.screenshot(siteId)]), {
        headers: { 'content-type': 'image/png' },
      });
    checkHandshake(context, consoles.origins);
    const { caller, signal, log } = context;
    const asked = { deps, input: { siteId }, context };
    const permission = permissionOf(onSite.modify, `GET ${path}`, asked);
    const wish = { subject: siteId, dn: caller.dn, facts: { siteId }, permission, signal };
    const opened = await screens.open(wish, () => systems.consoles.openScreen(siteId));
    return webSocket((socket) => void opened.join(asStream(socket), log));
  },
});

/** The screens that somebody looks at; they end with their machine. */
export function openScreens(
  systems: Pick<TargetSystems, 'subscribe'>,
  config: CarryingConfig,
): CarriedConnections {
  const screens = new CarriedConnections('open screen', config);
  screens.follow(
    systems.subscribe((event) => {
      if (event.type === 'lost') screens.endOf(event.targetId, 'the machine has ended');
    }),
  );
  return screens;
}

export const screenOperations = [getScreen];
