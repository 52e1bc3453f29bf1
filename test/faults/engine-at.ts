import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import type { Scope } from '#kernel/scope.js';
import type { AgentLink } from '#xnjs/tsi/agent-link.js';
import { CallbackRange } from '#xnjs/tsi/callback-range.js';
import { callbackTransport } from '#xnjs/tsi/callback-transport.js';
import { createTsi } from '#xnjs/tsi/tsi-client.js';
import { TsiGroup } from '#xnjs/tsi/tsi-group.js';
import {
  identity,
  startEngine,
  startEngineOn,
  type EngineRig,
  type RigOptions,
} from '../xnjs/job/rig.js';

/** @param address the socket of an agent, or `tcp:<port>` of a TSI with a classic main */
export async function startEngineAt(
  scope: Scope,
  directory: string,
  address: string,
  options: RigOptions = {},
): Promise<EngineRig & { readonly link?: AgentLink }> {
  const [, port] = /^tcp:(\d+)$/.exec(address) ?? [];
  if (port === undefined) return await startEngine(scope, directory, address, options);
  const common = { clock: systemClock, log: silentLog };
  const ports = { host: '127.0.0.1', firstPort: 0, lastPort: 0, log: silentLog };
  const listener = scope.use(new CallbackRange(ports));
  const transport = callbackTransport({ host: '127.0.0.1', port: Number(port), listener });
  const tsi = createTsi(transport, { ...common, systemIdentity: identity });
  const group = new TsiGroup({ name: 'test', nodes: [{ name: 'node', tsi }], ...common });
  scope.use(group);
  return await startEngineOn(scope, directory, () => group.tsi, options);
}
