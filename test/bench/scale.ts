import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { stopServer } from '#cli/quickstart/server.js';
import { silentLog } from '#kernel/log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { cpuMs, residentMb, waitedMs } from './cpu.js';
import { ask } from './scale/client.js';
import { inFlight, print, printMachine, quantile } from './report.js';
import { factoryPath } from '../grid/grid.js';
import { Installation, publishImage } from './scale/installation.js';
import { readMetrics, valueOf } from './scale/scrape.js';

/**
 * A whole server, compiled and in one process with gateway and image repository, SQLite on disk, with many
 * target systems that do nothing. Fake are libvirtd (its protocol over a unix socket is spoken, no QEMU is there,
 * its figures are made up) and the machines: each has an agent of ours at its socket, the agent's own code, but some
 * thousands share a process. Real are heartbeats, looks, comparisons, accounts, facts of guests.
 *
 * Hundred target systems are asked for by REST. Beyond that their records and domains are copied while the server is
 * down, and it finds them all when it starts again.
 *
 * usage: npm run bench:scale -- [sizes, 100 and 10000 by default]
 */
const sizes = process.argv.length > 2 ? process.argv.slice(2).map(Number) : [100, 10_000];
const asked = 100;
const steadyMs = 60_000;
const settleMs = 40_000;
const betweenGetsMs = 50;
const core = '/VSITE/rest/core';

type Cost = { readonly share: number; readonly mb: number };

/** Records and domains like those that are there, until there are so many. */
async function multiply({ layout, daemon }: Installation, count: number): Promise<void> {
  const url = `sqlite:${join(layout.state, 'targetsystem.sqlite')}`;
  await using database = await openDatabase({ url, log: silentLog });
  const [row] = await database.sql<{ id: string; document: string }>(
    'SELECT id, document FROM target_systems LIMIT 1',
    [],
  );
  if (!row) throw new Error('there is no target system');
  const ids = Array.from({ length: count - daemon.ids.length }, () => randomUUID());
  await inFlight(ids.length, 16, async (at) => {
    const id = ids[at] ?? '';
    await mkdir(join(layout.state, 'vms', id, 'run'), { recursive: true });
    await daemon.copy(row.id, id);
  });
  await database.write(
    ids.map((id) => ({
      text: 'INSERT INTO target_systems (id, document) VALUES ($1, $2)',
      values: [id, row.document.replaceAll(row.id, id)],
    })),
  );
}

/** Resolves when what a start leaves to do is done: it marks each domain as its own. */
async function settled({ calls }: Installation['daemon']): Promise<void> {
  for (let before = -1, marked = 0; before !== marked;) {
    before = calls.get('domain_set_metadata') ?? 0;
    await sleep(settleMs);
    marked = calls.get('domain_set_metadata') ?? 0;
  }
}

/** What so many target systems cost that do nothing. */
async function measure(installation: Installation, sites: readonly string[]): Promise<Cost> {
  const pid = await installation.pid();
  await settled(installation.daemon);
  const before = await readMetrics(installation.metricsUrls.targetsystem);
  installation.daemon.calls.clear();
  const [cpu, waited, startedMs] = [cpuMs(pid), waitedMs(pid), performance.now()];
  const times = await ask({
    ...(await installation.credentials()),
    url: installation.url,
    paths: sites.length === 0 ? [core] : sites.map((site) => `${core}/sites/${site}`),
    ...{ forMs: steadyMs, betweenMs: betweenGetsMs },
  });
  const tookMs = performance.now() - startedMs;
  const share = (cpuMs(pid) - cpu) / tookMs;
  const others = (waitedMs(pid) - waited) / tookMs;
  const after = await readMetrics(installation.metricsUrls.targetsystem);
  const mean = (name: string): number => {
    const grown = (what: string) => valueOf(after, `${name}_${what}`) - valueOf(before, `${name}_${what}`); // prettier-ignore
    return grown('sum') / grown('count');
  };
  const mb = residentMb(pid);
  const [n, p99Ms] = [sites.length, quantile(times, 0.99)];
  const of = `${n} target systems: `;
  print({
    what: `${of}share of a core`,
    value: `${(100 * share).toFixed(1)} %`,
    goal: '< 25 %',
    met: share < 0.25,
    baseline: `with ${times.length} GETs; calls of libvirt: ${JSON.stringify(Object.fromEntries(installation.daemon.calls))}`,
  });
  print({ what: `${of}memory`, value: `${mb.toFixed(0)} MB`, goal: '< 500 MB', met: mb < 500 });
  const pass = mean('vsite_reconcile_pass_duration_seconds');
  // there is none where there is nothing to reconcile
  if (n > 0)
    print({
      what: `${of}pass of reconciliation`,
      value: `${pass.toFixed(2)} s`,
      goal: '< 30 s',
      met: pass < 30,
    });
  print({
    what: `${of}GET of one, p99`,
    value: `${p99Ms.toFixed(1)} ms`,
    goal: '< 20 ms',
    met: p99Ms < 20,
    baseline: `p50 ${quantile(times, 0.5).toFixed(1)} ms; by the server itself, mean: ${(1_000 * mean('vsite_rest_request_duration_seconds')).toFixed(1)} ms; its event loop's p99: ${(1_000 * valueOf(after, 'nodejs_eventloop_lag_p99_seconds')).toFixed(1)} ms; it waited for a processor ${(100 * others).toFixed(1)} % of the time`,
  });
  return { share, mb };
}

async function run(size: number): Promise<Cost> {
  await using installation = await Installation.start();
  const { layout, daemon } = installation;
  const image = await publishImage(installation);
  const user = await installation.client();
  const first = Math.min(size, asked);
  const pid = await installation.pid();
  const cpu = cpuMs(pid);
  await inFlight(first, 8, () => user.json('POST', factoryPath, { image }));
  await installation.untilUp(first, 120_000);
  if (first > 0)
    process.stdout.write(
      `${first} asked for: ${((cpuMs(pid) - cpu) / first).toFixed(1)} ms of CPU each until ready\n`,
    );
  if (size > first) {
    await stopServer(layout);
    await multiply(installation, size);
    await installation.startServer();
    const ms = await installation.untilUp(size, 600_000);
    const spent = cpuMs(await installation.pid());
    process.stdout.write(
      `${size} found again ${(ms / 1_000).toFixed(1)} s after the start, ${(spent / 1_000).toFixed(1)} s of CPU\n`,
    );
  }
  return await measure(installation, daemon.ids);
}

printMachine();
const base = await run(0);
const costs: Cost[] = [];
for (const size of sizes) costs.push(await run(size));
const perMachine = costs.map(({ share, mb }, at) => ({
  share: (share - base.share) / (sizes[at] ?? NaN),
  kb: (1_024 * (mb - base.mb)) / (sizes[at] ?? NaN),
}));
for (const [at, { share, kb }] of perMachine.entries())
  process.stdout.write(
    `${sizes[at]}: ${(1e6 * share).toFixed(0)} µs of CPU a second and ${kb.toFixed(0)} kB for each\n`,
  );
const [few, many] = [perMachine[0], perMachine.at(-1)];
if (few && many && few !== many)
  print({
    what: `CPU for each, ${sizes.at(-1)} / ${sizes[0]}`,
    value: (many.share / few.share).toFixed(2),
    goal: '<= 1.3',
    met: many.share <= 1.3 * few.share,
    baseline: 'above what a server without any needs',
  });
