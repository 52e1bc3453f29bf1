import { countBy } from '#kernel/http/request-metrics.js';
import type { Metrics } from '#kernel/metrics.js';
import type { SiteTable } from './site.js';

/** A request that the gateway has done with. */
export type Exchanged = {
  /** The site's name; absent: none of our sites was asked. */
  readonly site?: string | undefined;
  readonly status: number;
  readonly ms: number;
  /** Of the answer's body. */
  readonly bytes: number;
};

/** Counts what passes through the gateway, by site. */
export function countExchanges(
  metrics: Metrics,
  sites: Pick<SiteTable, 'all'>,
): (exchanged: Exchanged) => void {
  const count = countBy(metrics, 'gateway', 'vsite');
  const sent = metrics.counter({
    name: 'gateway_answer_bytes_total',
    help: 'Bytes of the bodies of answers from sites',
    labels: ['vsite'],
  });
  metrics.gauge(
    { name: 'gateway_active_requests', help: 'Requests under way, by site', labels: ['vsite'] },
    () => sites.all().map(({ name, active }) => ({ labels: { vsite: name }, value: active })),
  );
  return ({ site: vsite = 'none', status, ms, bytes }) => {
    count(vsite, status, ms);
    sent({ vsite }, bytes);
  };
}
