import { callBuckets, type Metrics } from '#kernel/metrics.js';
import type { DatabaseCall } from './database.js';

/** How long a service's database takes, and how often it fails. */
export function timeDatabase(metrics: Metrics): (call: DatabaseCall) => void {
  const time = metrics.histogram({
    name: 'database_call_duration_seconds',
    help: 'Calls of the database: reads by hand, queries of models, durable writes, transactions',
    labels: ['kind'],
    buckets: callBuckets,
  });
  const failures = metrics.counter({
    name: 'database_failures_total',
    help: 'Calls of the database that failed',
    labels: ['kind'],
  });
  return ({ kind, ms, isOk }) => {
    time({ kind }, ms / 1_000);
    if (!isOk) failures({ kind });
  };
}
