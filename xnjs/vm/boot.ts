import type { AgentFacts } from '#tsi/protocol/facts.js';
import type { BootTimeline } from './target-system.js';

/**
 * Puts the guest's own marks, which are uptimes, on the server's clock: the answer arrived at `nowMs`
 * when the guest's uptime was `facts.uptimeMs`. What a guest says is only kept between the start of its
 * domain and its first answer, so that a lie or a wrong clock cannot bend the time line.
 */
export function completeTimeline(
  boot: BootTimeline,
  facts: AgentFacts,
  requestedMs: number,
  nowMs: number,
  hasKernel: boolean,
): BootTimeline {
  const now = nowMs - requestedMs;
  const ready = boot.readyMs ?? now;
  const start = boot.startedMs ?? 0;
  const mark = (uptimeMs: number): number =>
    Math.round(Math.min(ready, Math.max(start, now - facts.uptimeMs + uptimeMs)));
  const userSpace = facts.userSpaceMs === undefined ? undefined : mark(facts.userSpaceMs);
  return {
    ...boot,
    ...(hasKernel && { kernelMs: mark(0) }),
    ...(userSpace !== undefined && { userSpaceMs: userSpace }),
    // an uptime is exact to 10 ms only, and the two may be closer than that
    agentMs: Math.max(userSpace ?? start, mark(facts.agentMs)),
    readyMs: ready,
  };
}
