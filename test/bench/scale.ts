import { writeFile, chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseDocument } from 'yaml';
import { readRecord } from '#cli/host/process.js';
import {
  siteUrl,
  writeConfiguration,
  writeIdentities,
  demoUser,
  creatorName,
} from '#cli/quickstart/configuration.js';
import { layoutOf } from '#cli/quickstart/layout.js';
import { publish } from '#cli/quickstart/main-job.js';
import { startServer, stopServer } from '#cli/quickstart/server.js';
import { ImageMetadata } from '#imagerepo/contract.js';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import { Scope } from '#kernel/scope.js';
import { bzImage, gzipped, metadata } from '../imagerepo/samples.js';
import { freePort } from '../grid/grid.js';
import { cpuMs, residentMb } from './cpu.js';
import { inFlight, print, printMachine, quantile } from './report.js';
import { AgentProcesses } from './scale/guests.js';
import { FakeLibvirtd } from './scale/libvirtd.js';

const sizes = process.argv.slice(2).map(Number);
const steadyMs = Number(process.env['STEADY_MS'] ?? 60_000);
const factoryPath = '/VSITE/rest/core/factories/default_target_system_factory';

async function measure(count: number) {
  await using scope = new Scope();
  const directory = await mkdtemp(join(tmpdir(), 'vsite-scale-'));
  if (!process.env['KEEP']) scope.defer(() => rm(directory, { recursive: true, force: true }));
  await chmod(directory, 0o711);
  const layout = layoutOf(directory);
  const guests = scope.use(new AgentProcesses(directory));
  const socket = join(directory, 'lv.sock');
  const daemon = scope.use(await FakeLibvirtd.listen(socket, guests));
  const address = { host: '127.0.0.1', port: await freePort() };
  const url = siteUrl(address);
  await writeIdentities(layout);
  await writeConfiguration(layout, address, {
    machines: `qemu+unix:///system?socket=${socket}`,
    acceleration: 'qemu',
  });
  const file = join(layout.config, 'targetsystem.yaml');
  const document = parseDocument(await readFile(file, 'utf8'));
  document.setIn(['xnjs', 'targetSystems', 'limits', 'perUser'], 20_000);
  document.setIn(['xnjs', 'targetSystems', 'bootTimeoutSeconds'], 1200);
  await writeFile(file, document.toString());
  await startServer(layout, url);
  scope.defer(() => stopServer(layout));
  const ca = await readFile(join(layout.credentials, 'ca.pem'), 'utf8');
  const client = (user: string, password: string): HttpClient =>
    scope.use(
      createHttpClient({ baseUrl: url, tls: { ca }, auth: { user, password }, timeoutMs: 120_000 }),
    );
  const creator = client(creatorName, (await readFile(layout.creatorPassword, 'utf8')).trim());
  const user = client(demoUser.name, demoUser.password);
  const [kernel, initrd] = [join(directory, 'kernel'), join(directory, 'initrd')];
  await writeFile(kernel, bzImage('x'));
  await writeFile(initrd, gzipped('x'));
  const image = await publish(creator, {
    metadata: ImageMetadata.parse(
      metadata({ visibility: 'public', tsi: { login: 'root', jobsDirectory: '/tmp' } }),
    ),
    parts: { kernel, initrd },
  });
  const pid = (await readRecord(layout.serverRecord))!.pid;
  const sites: string[] = [];
  const t0 = performance.now();
  const c0 = cpuMs(pid);
  await inFlight(count, 16, async (at) => {
    const { headers } = await user.json('POST', factoryPath, { image });
    sites.push(new URL(String(headers['location'])).pathname);
    if (at % 1000 === 0)
      console.log(
        at,
        Math.round(performance.now() - t0),
        'ms',
        cpuMs(pid) - c0,
        'cpu',
        residentMb(pid).toFixed(0),
        'MB',
      );
  });
  console.log('requested', Math.round(performance.now() - t0), 'ms, cpu', cpuMs(pid) - c0);
  await allReady(user, sites);
  console.log(
    'ready',
    Math.round(performance.now() - t0),
    'ms, cpu',
    cpuMs(pid) - c0,
    residentMb(pid).toFixed(0),
    'MB',
  );
  await sleep(Number(process.env['SETTLE_MS'] ?? 15_000));
  daemon.calls.clear();
  const c1 = cpuMs(pid);
  const t1 = performance.now();
  const times: number[] = [];
  while (performance.now() - t1 < steadyMs) {
    const begun = performance.now();
    const site = sites[Math.floor(Math.random() * sites.length)];
    if (site === undefined) await user.json('GET', '/VSITE/rest/core');
    else await user.json('GET', site);
    times.push(performance.now() - begun);
    await sleep(100);
  }
  const ms = performance.now() - t1;
  const share = (cpuMs(pid) - c1) / ms;
  console.log(
    count,
    'CPU',
    (100 * share).toFixed(1),
    '% RSS',
    residentMb(pid).toFixed(0),
    'p50',
    quantile(times, 0.5).toFixed(1),
    'p99',
    quantile(times, 0.99).toFixed(1),
    'max',
    Math.max(...times).toFixed(1),
    Object.fromEntries(daemon.calls),
  );
  return { share, mb: residentMb(pid) };
}

async function allReady(user: HttpClient, sites: readonly string[]): Promise<void> {
  let last = 0;
  await inFlight(sites.length, 8, async (at) => {
    for (;;) {
      const { body } = await user.json(
        'GET',
        `${sites[at]}?fields=resourceStatus,resourceStatusMessage`,
      );
      const { resourceStatus } = body as { resourceStatus: string };
      if (resourceStatus === 'READY') {
        last++;
        return;
      }
      if (resourceStatus !== 'INITIALIZING') console.log(JSON.stringify(body));
      await sleep(200);
    }
  });
}
printMachine();
for (const size of sizes) await measure(size);
