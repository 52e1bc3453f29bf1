import type { Duplex, Readable } from 'node:stream';
import { errorText, GridError } from '#kernel/errors.js';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { hasRefused, isUnknownDomain } from '#kernel/libvirt/errors.js';
import { agentConsole } from './domain-xml.js';
import type { Driver } from './target-system.js';

/** Takes the console away from whoever has it open. */
const forceConsole = 1;
/** It does not run; somebody else has the console; it has none of that kind (an earlier version's machine). */
const consoleRefusals = ['operationInvalid', 'operationFailed', 'internalError'] as const;

/** To the agent: a virtio port, or a container's second console. */
export async function openChannel(
  client: LibvirtClient,
  driver: Driver,
  id: string,
  portName: string,
): Promise<Duplex> {
  const { dom } = await client.call('domain_lookup_by_uuid', { uuid: id });
  if (driver !== 'lxc')
    return await client.openStream('domain_open_channel', { dom, name: portName, flags: 0 });
  const device = { dom, dev_name: agentConsole.alias, flags: 0 };
  return await client.openStream('domain_open_console', device);
}

/** @throws `CONFLICT` it cannot be opened, and why */
export async function openConsole(
  client: LibvirtClient,
  id: string,
  force: boolean,
): Promise<Duplex> {
  try {
    const { dom } = await client.call('domain_lookup_by_uuid', { uuid: id });
    const flags = force ? forceConsole : 0;
    return await client.openStream('domain_open_console', { dom, dev_name: null, flags });
  } catch (error) {
    if (!isUnknownDomain(error) && !hasRefused(error, ...consoleRefusals)) throw error;
    const text = `the console cannot be opened: ${errorText(error)}`;
    throw new GridError('CONFLICT', text, { vmId: id }, { cause: error });
  }
}

/** @throws `CONFLICT` it does not run */
export async function screenshot(client: LibvirtClient, id: string): Promise<Readable> {
  try {
    const { dom } = await client.call('domain_lookup_by_uuid', { uuid: id });
    return await client.openStream('domain_screenshot', { dom, screen: 0, flags: 0 });
  } catch (error) {
    if (!isUnknownDomain(error) && !hasRefused(error, 'operationInvalid')) throw error;
    throw new GridError('CONFLICT', errorText(error), { vmId: id }, { cause: error });
  }
}
