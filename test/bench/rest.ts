import { execFile } from 'node:child_process';
import { chmod, mkdtemp, open, rm } from 'node:fs/promises';
import { Agent as PlainAgent, request as plainRequest, type IncomingMessage } from 'node:http';
import { Agent, request as tlsRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { readRecord } from '#cli/host/process.js';
import { demoUser, writeIdentities } from '#cli/quickstart/configuration.js';
import { createTargetSystem, waitUntilReady } from '#cli/quickstart/main-job.js';
import type { HttpClient } from '#kernel/http/client.js';
import { Scope } from '#kernel/scope.js';
import { eventually, Grid, noContainers, sitePath } from '../grid/grid.js';
import { cpuMs, familyCpuMs, residentMb } from './cpu.js';
import { fillStore } from './engine-rig.js';
import { startNginx } from './nginx.js';
import { startPlainProxy } from './plain-proxy.js';
import { inFlight, print, printMachine, quantile } from './report.js';

/**
 * A whole server through its gateway, by kept TLS connections, beside nginx in the same run: what a request costs
 * and how long it takes, large files, long lists, memory. Needs libvirt as root, and nginx and curl.
 *
 * usage: npm run bench:rest -- [MB of the large file] [files: nothing else]
 */
const fileMb = Number(process.argv[2] ?? 500);
const filesOnly = process.argv[3] === 'files';
const stored = 10_000;
const rounds = 5;
const width = 8;
const signal = AbortSignal.timeout(1_200_000);
const curl = promisify(execFile);

type Call = (
  path: string,
  method?: string,
  body?: string,
) => Promise<{ status: number; text: string; location: string }>;

/** As UNICORE's clients do: a password at first, then the session that came with the answer. */
function caller(base: string | { socket: string }): Call {
  const settings = { keepAlive: true, maxSockets: 64 };
  const agent =
    typeof base === 'string'
      ? new Agent({ ...settings, rejectUnauthorized: false })
      : new PlainAgent(settings);
  const password = Buffer.from(`${demoUser.name}:${demoUser.password}`).toString('base64');
  let session: string | undefined;
  return (path, method = 'GET', body) =>
    new Promise((resolve, reject) => {
      const headers = {
        accept: 'application/json',
        authorization: `Basic ${password}`,
        ...(session !== undefined && { 'x-unicore-securitysession': session }),
        ...(body !== undefined && {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(body),
        }),
      };
      const answered = (response: IncomingMessage): void => {
        const pieces: Buffer[] = [];
        session = String(response.headers['x-unicore-securitysession'] ?? session);
        response.on('data', (piece: Buffer) => pieces.push(piece));
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            text: Buffer.concat(pieces).toString(),
            location: response.headers.location ?? '',
          }),
        );
      };
      const request =
        typeof base === 'string'
          ? tlsRequest(base + path, { method, headers, agent }, answered)
          : plainRequest({ socketPath: base.socket, path, method, headers, agent }, answered);
      request.on('error', reject).end(body);
    });
}

async function expect(
  status: number,
  answer: ReturnType<Call>,
): Promise<Awaited<ReturnType<Call>>> {
  const got = await answer;
  if (got.status !== status) throw new Error(`status ${got.status}: ${got.text.slice(0, 200)}`);
  return got;
}

const median = (values: readonly number[]): number => quantile(values, 0.5);
/** Each once, in turns, so that what else the machine does falls on all. */
async function inTurns<T>(times: number, works: readonly (() => Promise<T>)[]): Promise<T[][]> {
  const found = works.map((): T[] => []);
  for (let round = 0; round < times; round++)
    for (const [at, work] of works.entries()) found[at]?.push(await work());
  return found;
}

type Costs = { readonly perSecond: number; readonly cpuMs: number };
async function load(call: Call, path: string, cpu: () => number, count = 1_500): Promise<Costs> {
  const before = cpu();
  const ms = await inFlight(count, width, () => expect(200, call(path)));
  return { perSecond: (count / ms) * 1_000, cpuMs: (cpu() - before) / count };
}

type Others = { readonly nginx: Yardstick; readonly plain: Yardstick };
type Yardstick = { readonly url: string; readonly pid: number };

async function compareGet(ours: Call, path: string, { nginx, plain }: Others): Promise<void> {
  const [nginxCall, plainCall] = [caller(nginx.url), caller(plain.url)];
  const found = await inTurns(rounds, [
    () => load(ours, path, () => cpuMs(server)),
    () => load(nginxCall, '/job', () => familyCpuMs(nginx.pid)),
    () => load(plainCall, '/job', () => cpuMs(plain.pid)),
  ]);
  const [mine = NaN, its = NaN, bare = NaN] = found.map((all) =>
    median(all.map((each) => each.cpuMs)),
  );
  const rates = found.map((all) => median(all.map((each) => each.perSecond)).toFixed(0));
  const perCore = (ms: number): string => (1_000 / ms).toFixed(0);
  print({
    what: 'GET of a job, per core used, of nginx’s proxy',
    value: `${(its / mine).toFixed(2)} (${perCore(mine)} per s and core)`,
    goal: '>= 0.35',
    met: its / mine >= 0.35,
    baseline: `nginx: ${perCore(its)} per s and core; a bare proxy in Node: ${perCore(bare)}, ${(its / bare).toFixed(2)} of nginx, ours ${(bare / mine).toFixed(2)} of it; per s here: ${rates.join(', ')}`,
  });
}

async function compareLatency(through: Call, direct: Call, path: string): Promise<void> {
  const times: [number[], number[]] = [[], []];
  for (let at = 0; at < 2_000; at++)
    for (const [which, call] of [through, direct].entries()) {
      const startedMs = performance.now();
      await expect(200, call(which === 0 ? path : path.replace('/VSITE', '')));
      times[which]?.push(performance.now() - startedMs);
    }
  const [a, b] = times;
  const added = quantile(a, 0.5) - quantile(b, 0.5);
  print({
    what: 'added by the gateway and TLS, p50',
    value: `${added.toFixed(2)} ms; p99 ${(quantile(a, 0.99) - quantile(b, 0.99)).toFixed(2)} ms`,
    goal: '< 1 ms',
    met: added < 1,
    baseline: `p50 through the gateway ${quantile(a, 0.5).toFixed(2)} ms, direct ${quantile(b, 0.5).toFixed(2)} ms`,
  });
}

/** One file by curl, which is the client of both; MB per s, and CPU time for each MB. */
async function transfer(url: string, args: readonly string[], cpu: () => number): Promise<Costs> {
  const before = cpu();
  const written = '%{time_total} %{size_download} %{size_upload}';
  const { stdout } = await curl('curl', [
    ...['-s', '-S', '--fail', '--insecure', '-o', '/dev/null', '-w', written],
    ...['-u', `${demoUser.name}:${demoUser.password}`, '-H', 'Expect:', ...args, url],
  ]);
  const [seconds = NaN, down = 0, up = 0] = stdout.split(' ').map(Number);
  if (Math.max(down, up) !== fileMb * 1_000_000) throw new Error(`${stdout}: not all of ${url}`);
  return { perSecond: fileMb / seconds, cpuMs: (cpu() - before) / fileMb };
}

/** After a round that is not counted, for either: what has never run is compiled then, and file caches are filled. */
async function compareFiles(
  { name, files, other }: { readonly name: string; readonly files: string; readonly other: string },
  nginx: Yardstick,
  directory: string,
): Promise<void> {
  const source = join(directory, 'large');
  const file = await open(source, 'w', 0o644);
  for (let mb = 0; mb < fileMb; mb++) await file.write(Buffer.alloc(1_000_000, mb & 0xff));
  await file.close();
  const ways = {
    upload: ['-T', source, '-H', 'Content-Type: application/octet-stream'],
    download: ['-H', 'Accept: application/octet-stream'],
  };
  for (const [way, args] of Object.entries(ways)) {
    const target = `${nginx.url}/files/large${way === 'upload' ? '.put' : ''}`;
    const works = [
      () => transfer(`${files}/large`, args, () => cpuMs(server)),
      () => transfer(target, args, () => familyCpuMs(nginx.pid)),
    ];
    await inTurns(1, works);
    const found = await inTurns(rounds, works);
    const [mine = NaN, its = NaN] = found.map((all) => median(all.map((each) => each.perSecond)));
    const slowest = Math.min(...(found[0] ?? []).map((each, at) => each.perSecond / (found[1]?.[at]?.perSecond ?? NaN))); // prettier-ignore
    const cpu = found.map((all) => median(all.map((each) => each.cpuMs)).toFixed(2));
    print({
      what: `${way} of ${fileMb} MB, ${name}`,
      value: `${(mine / its).toFixed(2)} of nginx (${mine.toFixed(0)} MB/s; worst of ${rounds}: ${slowest.toFixed(2)})`,
      goal: '>= 0.7',
      met: mine / its >= 0.7,
      baseline: `nginx, ${way === 'upload' ? 'whose dav module writes the file' : 'which serves the file'}: ${its.toFixed(0)} MB/s; CPU per MB${other}: ${cpu.join(' and ')} ms`,
    });
  }
}

async function timeLists(call: Call): Promise<void> {
  for (const num of [200, 1_000, 10_000]) {
    const times: number[] = [];
    for (let at = 0; at < 15; at++) {
      const startedMs = performance.now();
      await expect(200, call(`${sitePath}/jobs?num=${num}&offset=${num < stored ? at * 200 : 0}`));
      times.push(performance.now() - startedMs);
    }
    print({
      what: `page of ${num} in a list of ${stored} jobs, p50`,
      value: `${median(times).toFixed(1)} ms`,
      goal: '< 50 ms',
      met: median(times) < 50,
    });
  }
}

async function submissions(call: Call, site: string): Promise<void> {
  const body = JSON.stringify({ Executable: '/bin/true' });
  const count = 300; // more would wait for those before them to end
  const ms = await inFlight(count, 16, () => expect(201, call(`${site}/jobs`, 'POST', body)));
  const rate = (count / ms) * 1_000;
  print({
    what: 'submissions accepted, 16 in flight',
    value: `${rate.toFixed(0)} per s`,
    goal: '>= 600 per s',
    met: rate >= 600,
  });
}

async function directoryOfJob(
  user: HttpClient,
  site: string,
): Promise<{ job: string; files: string }> {
  const { headers } = await user.json('POST', `${site}/jobs`, {
    Executable: '/bin/true',
    haveClientStageIn: 'true',
  });
  const job = new URL(String(headers['location'])).pathname;
  const { body } = await user.json('GET', job);
  const { _links: links } = body as { _links: Record<string, { href: string }> };
  const href = links['workingDirectory']?.href ?? '';
  const status = `${new URL(href).pathname}?fields=resourceStatus`;
  await eventually('the directory of the job is there', async () => {
    const { body: storage } = await user.json('GET', status);
    return (storage as { resourceStatus: string }).resourceStatus === 'READY';
  });
  return { job, files: `${href}/files` };
}

if (noContainers) throw new Error(noContainers);
printMachine();
await using scope = new Scope();
const directory = await mkdtemp(join(tmpdir(), 'vsite-bench-'));
scope.defer(() => rm(directory, { recursive: true, force: true }));
await chmod(directory, 0o755);
await using grid = await Grid.start({
  prepare: async ({ layout }) => {
    const { user } = await writeIdentities(layout);
    await fillStore(layout.state, stored, user.dn, 'targetsystem');
  },
});
const { pid: server = 0 } = (await readRecord(grid.layout.serverRecord)) ?? {};
const user = await grid.user();
const site = await createTargetSystem(user, await grid.publishDemo('container'), {});
await waitUntilReady(user, site, signal, () => undefined);
const { job, files } = await directoryOfJob(user, site);
const through = caller(grid.url);
const direct = caller({ socket: join(grid.layout.run, 'targetsystem.sock') });
const yardstick = {
  directory,
  keyFile: join(grid.layout.credentials, 'gateway.key'),
  certFile: join(grid.layout.credentials, 'gateway.pem'),
  answer: (await expect(200, through(job))).text,
};
const nginx = await startNginx(scope, yardstick);
const plain = await startPlainProxy(scope, yardstick);
if (!filesOnly) {
  await load(through, job, () => 0); // warm
  await compareGet(through, job, { nginx, plain });
  await compareLatency(through, direct, job);
  await timeLists(through);
  await submissions(through, site);
}
const places = [
  { name: 'storage on the server', files: `${grid.url}${sitePath}/storages/DATA/files`, other: '' },
  { name: 'storage in a container', files, other: ', without its agent' },
];
for (const place of places) await compareFiles(place, nginx, directory);
const mb = residentMb(server);
print({
  what: 'memory of gateway and server after the load',
  value: `${mb.toFixed(0)} MB`,
  goal: '< 250 MB',
  met: mb < 250,
  baseline: `in one process, ${stored} jobs stored`,
});
