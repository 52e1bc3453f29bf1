import { callBuckets, type Metrics } from '#kernel/metrics.js';
import type { FinishedCall } from './calls.js';

/** How long hypervisors take, and what they refuse. @returns for each of their clients */
export function timeLibvirt(metrics: Metrics): (call: FinishedCall) => void {
  const time = metrics.histogram({
    name: 'libvirt_call_duration_seconds',
    help: 'Calls of libvirt, the wait for a turn included, by procedure',
    labels: ['procedure'],
    buckets: callBuckets,
  });
  const failures = metrics.counter({
    name: 'libvirt_call_failures_total',
    help: 'Calls of libvirt that failed, by procedure and error',
    labels: ['procedure', 'code'],
  });
  return ({ procedure, ms, code }) => {
    time({ procedure }, ms / 1_000);
    if (code !== undefined) failures({ procedure, code });
  };
}
