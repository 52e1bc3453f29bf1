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
  const count = metrics.counter({
    name: 'rest_requests_total',
    help: 'Requests answered by the REST face, by operation and status',
    labels: ['operation', 'status'],
  });
  const time = metrics.histogram({
    name: 'rest_request_duration_seconds',
    help: 'From the head of a request to the end of its answer, by operation',
    labels: ['operation'],
    buckets: callBuckets,
  });
  return ({ operation = 'none', status, ms }) => {
    count({ operation, status: String(status) });
    time({ operation }, ms / 1_000);
  };
}
