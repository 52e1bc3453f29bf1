const leastMs = 10_000;

export type SilenceOptions = {
  readonly heartbeatMs: number;
  /** Absent: three heartbeats, ten seconds at least. */
  readonly silenceMs?: number;
};

/** For how long a heartbeat may be unanswered before an agent counts as silent. */
export function silenceOf({ heartbeatMs, silenceMs }: SilenceOptions): number {
  return silenceMs ?? Math.max(3 * heartbeatMs, leastMs);
}
