import { callBuckets, type Metrics } from '#kernel/metrics.js';

/** A request that has been answered, or whose client has left. */
export type Answered = {
  /** `GET /jobs/:jobId`; absent: there is no such operation. */
  readonly operation?: string | undefined;
  readonly status: number;
  readonly ms: number;
};

/** Counts requests by operation and status. */
export function countRequests(metrics: Metrics): (answered: Answered) => void {
  const count = countBy(metrics, 'rest', 'operation');
  return ({ operation = 'none', status, ms }) => count(operation, status, ms);
}

/**
 * Counts requests, and how long they take.
 * @param prefix of the figures' names
 * @param label by what they are told apart, which is no user's to choose
 */
export function countBy(
  metrics: Metrics,
  prefix: string,
  label: string,
): (whose: string, status: number, ms: number) => void {
  const count = metrics.counter({
    name: `${prefix}_requests_total`,
    help: `Requests answered, by ${label} and status`,
    labels: [label, 'status'],
  });
  const time = metrics.histogram({
    name: `${prefix}_request_duration_seconds`,
    help: `From the head of a request to the end of its answer, by ${label}`,
    labels: [label],
    buckets: callBuckets,
  });
  return (whose, status, ms) => {
    count({ [label]: whose, status: String(status) });
    time({ [label]: whose }, ms / 1_000);
  };
}
