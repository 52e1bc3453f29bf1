import type { AgentFacts } from '#tsi/protocol/facts.js';
import type { BootTimeline } from './target-system.js';

/**
 * Puts the guest's own marks, which are uptimes, on the server's clock: the answer arrived at `nowMs`
 * when the guest's uptime was `facts.uptimeMs`. What a guest says is only kept between the start of its
 * domain and now, so that a lie or a wrong clock cannot bend the time line.
 */
export function completeTimeline(
  boot: BootTimeline,
  facts: AgentFacts,
  requestedMs: number,
  nowMs: number,
  hasKernel: boolean,
): BootTimeline {
  const ready = nowMs - requestedMs;
  const start = boot.startedMs ?? 0;
  const mark = (uptimeMs: number): number =>
    Math.round(Math.min(ready, Math.max(start, ready - facts.uptimeMs + uptimeMs)));
  return {
    ...boot,
    ...(hasKernel && { kernelMs: mark(0) }),
    ...(facts.userSpaceMs !== undefined && { userSpaceMs: mark(facts.userSpaceMs) }),
    agentMs: mark(facts.agentMs),
    readyMs: ready,
  };
}
