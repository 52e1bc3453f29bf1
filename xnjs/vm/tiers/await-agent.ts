import { orAborted, withDeadline } from '#kernel/net/deadline.js';
import type { AgentFacts } from '#tsi/protocol/facts.js';
import type { TargetBinding } from '../target-binding.js';

/**
 * Resolves when the agent has answered.
 * @returns what it says of its guest
 * @throws when it has not in time, or `signal` fires
 */
export async function awaitAgent(
  binding: TargetBinding,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<AgentFacts | undefined> {
  const late = (): Error => new Error('its agent has not answered in time');
  return await withDeadline(timeoutMs, [signal], late, async (until) => {
    const up = new Promise<void>((resolve) => {
      binding.onChange((isUp) => {
        if (isUp) resolve();
      });
    });
    await orAborted(up, until);
    return await binding.facts();
  });
}
