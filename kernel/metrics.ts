import { readdir } from 'node:fs/promises';
import { setImmediate as turn } from 'node:timers/promises';
import pLimit from 'p-limit';
import {
  collectDefaultMetrics,
  Counter,
  Gauge,
  Histogram,
  Registry,
  type LabelValues,
} from 'prom-client';
import { z } from 'zod';
import { port } from './config.js';
import { listen } from './http/listen.js';
import type { Log } from './log.js';
import type { Scope } from './scope.js';

/** Absent in a service's configuration: it counts nothing and listens nowhere. */
export const MetricsConfig = z.strictObject({
  /** Whoever reaches it reads how the service does, but of no user: nobody is asked who he is. */
  host: z.string().default('127.0.0.1'),
  port,
});
export type MetricsConfig = z.output<typeof MetricsConfig>;

/** What is counted has a name, what it is for people, and labels whose values are few. */
export type About<L extends string> = {
  readonly name: string;
  readonly help: string;
  readonly labels?: readonly L[];
};
/** A figure that is read when it is asked for, one for each set of labels. */
export type Reading<L extends string> = {
  readonly labels?: LabelValues<L>;
  readonly value: number;
};

/** Of what takes milliseconds, and of what takes up to minutes. */
export const callBuckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10];
export const longBuckets = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300];

/** Every series begins so. */
const prefix = 'vsite_';
/** They go through all sockets of the process: with thousands a scrape would hold up everything else. */
const tooDear = ['handles', 'requests', 'resources'].flatMap((what) => [
  `nodejs_active_${what}`,
  `nodejs_active_${what}_total`,
]);

/** The figures of one service, in Prometheus' text format. */
export class Metrics {
  readonly #registry = new Registry();
  /** One figure after the other: some look at all that there is, and others have their turn between them. */
  readonly #reading = pLimit(1);

  constructor() {
    collectDefaultMetrics({ register: this.#registry });
    for (const name of tooDear) this.#registry.removeSingleMetric(name);
    this.#countFiles();
  }

  /** As the library does, but not at the expense of the event loop: there may be thousands. */
  #countFiles(): void {
    const name = 'process_open_fds';
    if (!this.#registry.getSingleMetric(name)) return; // no such thing on this system
    this.#registry.removeSingleMetric(name);
    new Gauge({
      ...{ name, help: 'Number of open file descriptors.', registers: [this.#registry] },
      async collect() {
        this.set((await readdir('/proc/self/fd')).length - 1); // one of them is for this
      },
    });
  }

  /** @returns adds to it */
  counter<L extends string>({
    name,
    help,
    labels = [],
  }: About<L>): (labels?: LabelValues<L>, by?: number) => void {
    const counter = new Counter({
      ...{ name: `${prefix}${name}`, help, labelNames: labels },
      registers: [this.#registry],
    });
    return (values = {}, by = 1) => counter.inc(values, by);
  }

  /** @returns notes one observation, in seconds */
  histogram<L extends string>({
    name,
    help,
    labels = [],
    buckets,
  }: About<L> & { readonly buckets: readonly number[] }): (
    labels: LabelValues<L>,
    seconds: number,
  ) => void {
    const histogram = new Histogram({
      ...{ name: `${prefix}${name}`, help, labelNames: labels, buckets: [...buckets] },
      registers: [this.#registry],
    });
    return (values, seconds) => histogram.observe(values, seconds);
  }

  /** @param read each time that somebody asks */
  gauge<L extends string>(
    { name, help, labels = [] }: About<L>,
    read: () => readonly Reading<L>[] | Promise<readonly Reading<L>[]>,
  ): void {
    const inTurn = async (): Promise<readonly Reading<L>[]> => {
      await turn();
      return await read();
    };
    const readAfterOthers = () => this.#reading(inTurn);
    new Gauge({
      ...{ name: `${prefix}${name}`, help, labelNames: labels },
      registers: [this.#registry],
      async collect() {
        const readings = await readAfterOthers();
        this.reset();
        for (const { labels: values = {}, value } of readings) this.set(values, value);
      },
    });
  }

  async text(): Promise<{ readonly type: string; readonly body: string }> {
    return { type: this.#registry.contentType, body: await this.#registry.metrics() };
  }
}

/**
 * Opens what a configuration asks for: `GET /metrics` on an address of its own, never on the service's, which
 * the gateway passes to everybody.
 * @throws {@link ListenError} `ADDRESS_IN_USE`
 */
export async function openMetrics(
  config: MetricsConfig | undefined,
  scope: Scope,
  log: Log,
): Promise<Metrics | undefined> {
  if (!config) return undefined;
  const metrics = new Metrics();
  const { port: listening } = await listen(
    (request, response) => {
      const isAsked = request.url === '/metrics' && request.method === 'GET';
      if (!isAsked) {
        response.writeHead(404).end();
        return;
      }
      metrics
        .text()
        .then(({ type, body }) => response.writeHead(200, { 'content-type': type }).end(body))
        .catch((error: unknown) => {
          log.warn({ err: error }, 'the metrics could not be read');
          response.writeHead(503).end();
        });
    },
    config,
    scope,
  );
  log.info({ host: config.host, port: listening }, 'metrics are served');
  return metrics;
}
