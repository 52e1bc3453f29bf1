import { randomUUID } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { setPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseDocument } from 'yaml';
import { readRecord } from '#cli/host/process.js';
import {
  creatorName,
  demoUser,
  siteUrl,
  writeConfiguration,
  writeIdentities,
} from '#cli/quickstart/configuration.js';
import { layoutOf, type Layout } from '#cli/quickstart/layout.js';
import { publish } from '#cli/quickstart/main-job.js';
import { startServer, stopServer } from '#cli/quickstart/server.js';
import { ImageMetadata } from '#imagerepo/contract.js';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import { silentLog } from '#kernel/log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { Scope } from '#kernel/scope.js';
import { freePort } from '../grid/grid.js';
import { bzImage, gzipped, metadata } from '../imagerepo/samples.js';
import { cpuMs, residentMb } from './cpu.js';
import { inFlight, print, printMachine, quantile } from './report.js';
import { AgentProcesses } from './scale/guests.js';
import { FakeLibvirtd } from './scale/libvirtd.js';
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
const factory = `${core}/factories/default_target_system_factory`;

type Cost = { readonly share: number; readonly mb: number; readonly p99Ms: number };

class Installation implements AsyncDisposable {
  readonly layout: Layout;
  readonly daemon: FakeLibvirtd;
  readonly url: string;
  readonly metricsUrl: string;
  readonly #scope: Scope;

  private constructor(parts: {
    layout: Layout;
    daemon: FakeLibvirtd;
    url: string;
    metricsUrl: string;
    scope: Scope;
  }) {
    this.layout = parts.layout;
    this.daemon = parts.daemon;
    this.url = parts.url;
    this.metricsUrl = parts.metricsUrl;
    this.#scope = parts.scope;
  }

  static async start(): Promise<Installation> {
    const scope = new Scope();
    const directory = await mkdtemp(join(tmpdir(), 'vsite-scale-'));
    scope.defer(() => rm(directory, { recursive: true, force: true }));
    await chmod(directory, 0o711);
    const layout = layoutOf(directory);
    const socket = join(directory, 'libvirt.sock');
    const guests = scope.use(new AgentProcesses(directory));
    const daemon = scope.use(await FakeLibvirtd.listen(socket, guests));
    const address = { host: '127.0.0.1', port: await freePort() };
    const metricsPort = await freePort();
    await writeIdentities(layout);
    const machines = `qemu+unix:///system?socket=${socket}`;
    await writeConfiguration(layout, address, { machines, acceleration: 'qemu' });
    await configure(layout, metricsPort);
    const url = siteUrl(address);
    scope.defer(() => stopServer(layout));
    const metricsUrl = `http://127.0.0.1:${metricsPort}/metrics`;
    const installation = new Installation({ layout, daemon, url, metricsUrl, scope });
    await installation.startServer();
    return installation;
  }

  /** What else this machine does is not to be measured. */
  async startServer(): Promise<void> {
    await startServer(this.layout, this.url);
    try {
      setPriority(await this.pid(), -10);
    } catch {
      // only root may
    }
  }

  async pid(): Promise<number> {
    const record = await readRecord(this.layout.serverRecord);
    if (!record) throw new Error('the server does not run');
    return record.pid;
  }

  async client(user: string, passwordFile: string): Promise<HttpClient> {
    const ca = await readFile(join(this.layout.credentials, 'ca.pem'), 'utf8');
    const auth = { user, password: (await readFile(passwordFile, 'utf8')).trim() };
    return this.#scope.use(createHttpClient({ baseUrl: this.url, tls: { ca }, auth }));
  }

  /** Resolves when so many agents answer. */
  async untilUp(count: number): Promise<number> {
    const startedMs = performance.now();
    for (;;) {
      const found = await readMetrics(this.metricsUrl).catch(() => '');
      if (valueOf(found, 'vsite_agent_links{state="up"}') >= count)
        return performance.now() - startedMs;
      await sleep(250);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#scope.close();
  }
}

async function configure({ config }: Layout, metricsPort: number): Promise<void> {
  const file = join(config, 'targetsystem.yaml');
  const document = parseDocument(await readFile(file, 'utf8'));
  document.setIn(['xnjs', 'targetSystems', 'limits', 'perUser'], 100_000);
  document.set('metrics', { port: metricsPort });
  await writeFile(file, document.toString());
}

async function publishImage(installation: Installation): Promise<string> {
  const { layout } = installation;
  const parts = { kernel: join(layout.state, 'k'), initrd: join(layout.state, 'i') };
  await writeFile(parts.kernel, bzImage('kernel'));
  await writeFile(parts.initrd, gzipped('initrd'));
  const tsi = { login: 'root', jobsDirectory: '/tmp' };
  const described = ImageMetadata.parse(metadata({ visibility: 'public', tsi }));
  const creator = await installation.client(creatorName, layout.creatorPassword);
  return await publish(creator, { metadata: described, parts, key: '', cached: false });
}

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

/** What so many target systems cost that do nothing. */
async function measure(installation: Installation, sites: readonly string[]): Promise<Cost> {
  const user = await installation.client(demoUser.name, installation.layout.demoPassword);
  const pid = await installation.pid();
  await sleep(settleMs);
  const before = await readMetrics(installation.metricsUrl);
  installation.daemon.calls.clear();
  const [cpu, startedMs] = [cpuMs(pid), performance.now()];
  const times: number[] = [];
  for (let at = 0; performance.now() - startedMs < steadyMs; at++) {
    const site = sites[(at * 7_919) % Math.max(1, sites.length)];
    const askedMs = performance.now();
    await user.json('GET', site === undefined ? core : `${core}/sites/${site}`);
    times.push(performance.now() - askedMs);
    await sleep(betweenGetsMs);
  }
  const share = (cpuMs(pid) - cpu) / (performance.now() - startedMs);
  const after = await readMetrics(installation.metricsUrl);
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
    baseline: `p50 ${quantile(times, 0.5).toFixed(1)} ms; by the server itself, mean: ${(1_000 * mean('vsite_rest_request_duration_seconds')).toFixed(1)} ms; its event loop's p99: ${(1_000 * valueOf(after, 'nodejs_eventloop_lag_p99_seconds')).toFixed(1)} ms`,
  });
  return { share, mb, p99Ms };
}

async function run(size: number): Promise<Cost> {
  await using installation = await Installation.start();
  const { layout, daemon } = installation;
  const image = await publishImage(installation);
  const user = await installation.client(demoUser.name, layout.demoPassword);
  const first = Math.min(size, asked);
  const pid = await installation.pid();
  const cpu = cpuMs(pid);
  await inFlight(first, 8, () => user.json('POST', factory, { image }));
  await installation.untilUp(first);
  if (first > 0)
    process.stdout.write(
      `${first} asked for: ${((cpuMs(pid) - cpu) / first).toFixed(1)} ms of CPU each until ready\n`,
    );
  if (size > first) {
    await stopServer(layout);
    await multiply(installation, size);
    await installation.startServer();
    const ms = await installation.untilUp(size);
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
