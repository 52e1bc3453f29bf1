import { orAborted } from '#kernel/net/deadline.js';
import { createBinding } from '../create-binding.js';
import type { TargetSystemsOptions } from '../target-systems-options.js';
import { awaitAgent } from './await-agent.js';
import type { Held } from './held-spare.js';
import { newIdentity } from './identity.js';
import { copyable, fetchParts, withAgentDisk } from './image-files.js';
import { specOf } from './same-machine.js';
import type { SpareStore } from './spare.js';
import { startDomain } from './start-domain.js';

/** Boots the machine of a spare, which is stored before anything of it is there. Ended by its `gone`. */
export async function bootSpare(
  held: Held,
  store: Pick<SpareStore, 'save'>,
  options: TargetSystemsOptions,
): Promise<void> {
  const storage = options.hosts.storageOf(held.spare);
  if (storage) held.spare = await withAgentDisk(held.spare, options);
  await store.save(held.spare);
  const { callerDn } = held.spare;
  if (storage) {
    const parts = await fetchParts(held.spare, callerDn, options);
    const missing = await storage.missing(await copyable(held.spare, parts, options));
    await orAborted(storage.copy(missing), held.gone.signal);
  }
  held.gone.signal.throwIfAborted();
  await startDomain(specOf(held.spare), callerDn, options);
}

/** Resolves when its agent has answered, and can make its machine another one: it is ready then. */
export async function bindSpare(held: Held, options: TargetSystemsOptions): Promise<void> {
  const { bootTimeoutMs, clock } = options;
  held.gone.signal.throwIfAborted();
  const binding = createBinding(held.spare, options);
  held.binding = binding;
  binding.onChange((isUp) => {
    held.isUp = isUp;
    held.silentMs = isUp ? undefined : clock.now();
  });
  const facts = await awaitAgent(binding, clock, bootTimeoutMs, held.gone.signal);
  if (facts?.identity !== true || !binding.assume)
    throw new Error('its agent cannot make its machine another one');
  const how = { isCopy: false, isRehearsal: true };
  await binding.assume(newIdentity(held.spare, clock.now(), how));
  held.gone.signal.throwIfAborted();
  held.phase = 'ready';
}
