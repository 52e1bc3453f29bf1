import type { MachineIdentity } from '#tsi/protocol/machine-identity.js';
import { createBinding } from '../create-binding.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';
import { awaitAgent } from './await-agent.js';
import { newIdentity } from './identity.js';
import { findIdentity, type Patch } from './memory-file.js';
import type { MemoryFiles, Part } from './memory-files.js';
import { specOf } from './same-machine.js';
import { startDomain } from './start-domain.js';
import type { Template } from './template.js';
import { tryMapped } from './try-mapped.js';

/** What has to be known of saved memory to make copies of it others. */
export type Captured = Required<Pick<Template, 'bootId' | 'patches'>> & Pick<Template, 'mapped'>;

/** For the agent to see that nobody listens any more, and to wait for the next to call. */
const hangUpMs = 1_000;

/** Boots a machine of nobody's, and saves its memory. What is left where that fails is the caller's to remove. */
export async function captureMemory(
  template: Template,
  files: MemoryFiles,
  options: TargetSystemsOptions,
  { canMap, signal }: { readonly canMap: boolean; readonly signal: AbortSignal },
): Promise<Captured> {
  const { id, driver } = template;
  const bootId = await boot(template, options, signal);
  await options.clock.sleep(hangUpMs, signal);
  const path = await files.begin(template);
  await options.hosts.of(template).saveMemory(driver, id, path);
  const sizeBytes = canMap ? await tryMapped(template, files, options, signal) : undefined;
  const placesIn = async (part: Part): Promise<Patch[]> => {
    await using file = await files.open(template, { part });
    return await findIdentity(file, { id, bootId });
  };
  const patches = await placesIn('save');
  const mapped = sizeBytes !== undefined && { sizeBytes, patches: await placesIn('ram') };
  return { bootId, patches, ...(mapped && { mapped }) };
}

/** When this resolves nobody is connected to its agent any more. @returns the kernel's name of its boot */
async function boot(
  template: Template,
  options: TargetSystemsOptions,
  signal: AbortSignal,
): Promise<string> {
  const { clock, bootTimeoutMs } = options;
  await startDomain(specOf(template), template.ownerDn, options);
  const how = { isCopy: true, isRehearsal: true };
  const identity = (): MachineIdentity => newIdentity(template, clock.now(), how);
  await using binding = createBinding(template, options, identity);
  const facts = await awaitAgent(binding, clock, bootTimeoutMs, signal);
  if (facts?.copies !== true || facts.bootId === undefined || !binding.assume)
    throw new Error('its agent cannot make a copy of its machine another one');
  // once more than its greeting: after a request it also clears memory that it does not use
  await binding.assume(identity());
  return facts.bootId;
}
