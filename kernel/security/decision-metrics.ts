import type { Metrics } from '#kernel/metrics.js';
import type { Audit } from './audit.js';

/** Counts what is written down of who was let in and who was refused. */
export function countDecisions(metrics: Metrics, audit: Audit): Audit {
  const count = metrics.counter({
    name: 'auth_decisions_total',
    help: 'Logins and accesses, granted and refused; code: why a login was refused',
    labels: ['what', 'allowed', 'code'],
  });
  return (decision, reqId) => {
    const { what, allowed, code = '' } = decision;
    count({ what, allowed: String(allowed), code });
    audit(decision, reqId);
  };
}
