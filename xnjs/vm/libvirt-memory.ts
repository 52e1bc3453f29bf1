import { errorText, GridError } from '#kernel/errors.js';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { hasRefused, isUnknownDomain } from '#kernel/libvirt/errors.js';
import type { Domain } from '#kernel/libvirt/procedures.js';
import { toRestore, withMappedMemory, withoutMapped, type MappedMemory } from './memory-backend.js';

/** A machine's memory goes to or comes from the disk. */
const options = { timeoutMs: 300_000 };
/** How a machine is when it is brought back. */
const toRun = 2;
const toStandStill = 4;
const startPaused = 1;
/** Shut off, crashed. */
const stopped: ReadonlySet<number> = new Set([5, 6]);

/**
 * Writes the memory of a machine to a file of ours and ends its process, also of one that is parked. May be
 * repeated.
 * @returns whether that is done; `false`: it has stopped without
 */
export async function saveMemoryTo(
  client: LibvirtClient,
  dom: Domain,
  path: string,
): Promise<boolean> {
  const isParked = (await hasStopped(client, dom)) && (await isSaved(client, dom));
  if (isParked) await unlessInvalid(startParked(client, dom, startPaused));
  else if (await hasStopped(client, dom)) return false;
  try {
    const flags = isParked ? toRun : 0;
    await client.call('domain_save_flags', { dom, to: path, dxml: null, flags }, options);
    return true;
  } catch (error) {
    if (hasRefused(error, 'operationInvalid')) return false; // it has stopped
    if (hasRefused(error, 'operationTimeout')) throw busy(error);
    if (isParked) await parkAgain(client, dom);
    throw error;
  }
}

export type FromMemory = {
  /** Of the same machine; which cores it may use can be others. Absent: the definition that the file has. */
  readonly xml?: string | undefined;
  /** Where the machine's memory is, if the file has all but that. */
  readonly mapped?: MappedMemory | undefined;
  /** And parks it, as it was. */
  readonly park?: boolean;
  /** It stands still until {@link resumeMachine}. */
  readonly isHalted?: boolean;
  readonly onDefined?: () => void;
};

/** Starts a machine from such a file, unless it runs. May be repeated. */
export async function startFromMemory(
  client: LibvirtClient,
  id: string,
  path: string,
  { xml, mapped, park = false, isHalted = park, onDefined }: FromMemory,
): Promise<void> {
  const dom = (await lookUp(client, id)) ?? (await defineFrom(client, path, xml));
  onDefined?.();
  const isThere = park && (await isSaved(client, dom));
  if (isThere) return;
  if (await hasStopped(client, dom)) {
    const flags = isHalted ? toStandStill : toRun;
    const dxml = mapped
      ? withMappedMemory(xml ?? (await definitionIn(client, path)), mapped)
      : toRestore(await definitionIn(client, path), xml);
    const from = { from: path, dxml, flags };
    const call = client.call('domain_restore_flags', from, options);
    await unlessInvalid(call);
  }
  if (park) await client.call('domain_managed_save', { dom, flags: toRun }, options);
}

/** Starts a machine from what libvirt keeps of it. */
export async function startParked(client: LibvirtClient, dom: Domain, flags = 0): Promise<void> {
  const { xml } = await client.call('domain_managed_save_get_xml_desc', { dom, flags: 0 });
  const dxml = toRestore(xml);
  if (dxml !== xml) await client.call('domain_managed_save_define_xml', { dom, dxml, flags: 0 });
  await client.call('domain_create_with_flags', { dom, flags }, options);
}

/** Lets a machine go on that stands still. May be repeated; one that is not there is fine. */
export async function resumeMachine(client: LibvirtClient, id: string): Promise<void> {
  const dom = await lookUp(client, id);
  if (dom) await unlessInvalid(client.call('domain_resume', { dom }));
}

/** Ends a machine, and what was parked of it, for good; it stays defined. One that is not there is fine. */
export async function endMachine(client: LibvirtClient, id: string): Promise<void> {
  const dom = await lookUp(client, id);
  if (!dom) return;
  await unlessInvalid(client.call('domain_destroy_flags', { dom, flags: 0 }));
  if (await isSaved(client, dom))
    await client.call('domain_managed_save_remove', { dom, flags: 0 });
}

/** There is no room for its memory elsewhere; where there is none any more at all, it runs. */
async function parkAgain(client: LibvirtClient, dom: Domain): Promise<void> {
  try {
    await client.call('domain_managed_save', { dom, flags: toRun }, options);
  } catch {
    await unlessInvalid(client.call('domain_resume', { dom }));
  }
}

async function defineFrom(client: LibvirtClient, file: string, own?: string): Promise<Domain> {
  const xml = own ?? withoutMapped(await definitionIn(client, file));
  return (await client.call('domain_define_xml_flags', { xml, flags: 0 })).dom;
}

async function definitionIn(client: LibvirtClient, file: string): Promise<string> {
  return (await client.call('domain_save_image_get_xml_desc', { file, flags: 0 })).xml;
}

async function lookUp(client: LibvirtClient, uuid: string): Promise<Domain | undefined> {
  try {
    return (await client.call('domain_lookup_by_uuid', { uuid })).dom;
  } catch (error) {
    if (isUnknownDomain(error)) return undefined;
    throw error;
  }
}

async function hasStopped(client: LibvirtClient, dom: Domain): Promise<boolean> {
  const { state } = await client.call('domain_get_state', { dom, flags: 0 });
  return stopped.has(state);
}

async function isSaved(client: LibvirtClient, dom: Domain): Promise<boolean> {
  return (await client.call('domain_has_managed_save_image', { dom, flags: 0 })).result === 1;
}

/** What has happened already: an order whose answer was lost. */
async function unlessInvalid(call: Promise<unknown>): Promise<void> {
  await orBusy(call).catch((error: unknown) => {
    if (!hasRefused(error, 'operationInvalid')) throw error;
  });
}

/** @throws `HYPERVISOR_UNAVAILABLE` while an earlier order is being carried out */
async function orBusy<T>(call: Promise<T>): Promise<T> {
  return await call.catch((error: unknown) => {
    throw hasRefused(error, 'operationTimeout') ? busy(error) : error;
  });
}

function busy(cause: unknown): GridError {
  return new GridError('HYPERVISOR_UNAVAILABLE', errorText(cause), {}, { cause });
}
