import type { Clock } from '#kernel/clock.js';
import { orAborted, withDeadline } from '#kernel/net/deadline.js';
import type { AgentFacts } from '#tsi/protocol/facts.js';
import type { TargetBinding } from '../target-binding.js';

/** A link may break right after it came up, on a host with much to do. */
const attempts = 5;
const againMs = 1_000;

/**
 * Resolves when the agent has answered.
 * @returns what it says of its guest; `undefined`: nothing sensible, however often it was asked
 * @throws when it has not in time, or `signal` fires
 */
export async function awaitAgent(
  binding: TargetBinding,
  clock: Clock,
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
    for (let attempt = 1; ; attempt++) {
      const facts = await binding.facts();
      if (facts || attempt === attempts) return facts;
      await clock.sleep(againMs, until);
    }
  });
}
