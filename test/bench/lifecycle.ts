import { EventEmitter, once } from 'node:events';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { followEvents } from '#cli/client/events.js';
import { deleteAndWait } from '#cli/client/resources.js';
import { buildDemoContainer, buildDemoVm, type BuiltImage } from '#cli/image/build.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { createTargetSystem } from '#cli/quickstart/main-job.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { eventually, Grid, noContainers, noMachines, sitePath } from '../grid/grid.js';
import { bareContainer, bareMachine, libvirtContainer } from './bare.js';
import { cpuMs, findProcess } from './cpu.js';
import { print, printMachine, quantile } from './report.js';

/**
 * How long target systems take from `POST` to READY, as a client of the gateway sees it, by each start tier,
 * against the same image started by hand until its agent's first byte; and how soon REST shows what libvirt
 * tells. Software emulation; medians.
 *
 * Of each start of a machine its time line is told too: where the time has gone, in ms after the request; and the
 * processor time of QEMU, which beside other work says more than the clock. At READY, a few tens of ms late.
 *
 * usage: npm run bench:lifecycle -- [rounds] [parts, of: cold,warm,spare,container,events]
 */
const rounds = Number(process.argv[2] ?? 5);
const wanted = process.argv[3]?.split(',');
const signal = AbortSignal.timeout(1_800_000);
const atOnce = 8;
const eventSamples = 30;

if (noMachines) throw new Error(noMachines);
if (noContainers) throw new Error(noContainers);
await using cleanUp = new Scope();
const directory = await mkdtemp(join(tmpdir(), 'vsite-bench-'));
cleanUp.defer(() => rm(directory, { recursive: true, force: true }));
await chmod(directory, 0o711);
await using grid = await Grid.start();
const user = await grid.user();
const build = { cacheDir: join(defaultCacheDirectory(), 'images'), log: silentLog };

type Shown = { readonly resourceStatus: string; readonly start: { readonly tier: string } };
const shown = async (site: string): Promise<Shown> =>
  (await user.json('GET', `${site}?fields=resourceStatus,start`, undefined, { signal }))
    .body as Shown;

/** Of the stream of events, as a client follows it: what asks again and again takes time from what it measures. */
const news = new EventEmitter().setMaxListeners(0);
const lastStatus = new Map<string, string>();
async function listen(): Promise<void> {
  for await (const { event, data } of followEvents(
    { client: user, core: sitePath },
    { types: 'site' },
    listening.signal,
  )) {
    news.emit(event);
    if (data.id === undefined) continue;
    lastStatus.set(data.id, String(data['resourceStatus']));
    news.emit(data.id);
  }
}

/** Resolves when its status is this. */
async function becomes(site: string, status: string): Promise<Shown> {
  const id = site.split('/').at(-1) ?? '';
  while (lastStatus.get(id) !== status) await once(news, id, { signal });
  return await shown(site);
}

/** Processor time that machines have taken until they were READY, in ms: by tier, in the order of their starts. */
const qemuMs: Record<string, number[]> = {};

/** @returns ms from `POST` to READY, by the tier that is to be measured */
async function timeStart(image: string, tier: string): Promise<number> {
  const started = performance.now();
  const site = await createTargetSystem(user, image, {});
  const { start } = await becomes(site, 'READY');
  const ms = performance.now() - started;
  const qemu = findProcess(`guest=vsite-${site.split('/').at(-1)}`);
  const cpu = qemu && cpuMs(qemu);
  if (cpu !== undefined) (qemuMs[tier] ??= []).push(cpu);
  if (start.tier !== tier) throw new Error(`the start was ${start.tier}, not ${tier}`);
  const { vm } = (await user.json('GET', site)).body as { vm: { boot: Record<string, number> } };
  const marks = Object.entries(vm.boot).sort(([, a], [, b]) => a - b);
  const line = marks.map(([name, at]) => `${name} ${at}`).join(', ');
  process.stdout.write(
    `        ${tier} ${ms.toFixed(0)} ms${cpu === undefined ? '' : `, QEMU ${cpu} ms`}: ${line}\n`,
  );
  await deleteAndWait(user, site, signal);
  return ms;
}

async function measure(
  work: () => Promise<number>,
  before: () => Promise<unknown> = () => Promise.resolve(),
): Promise<{ median: number; list: string }> {
  const times: number[] = [];
  for (let round = 0; round <= rounds; round++) {
    await before();
    const ms = await work();
    if (round > 0) times.push(ms); // the first warms caches
  }
  return { median: quantile(times, 0.5), list: times.map((ms) => ms.toFixed(0)).join(' ') };
}

/** @returns ms until the last of them is READY */
async function together(image: string): Promise<{ lastMs: number; tiers: string }> {
  const started = performance.now();
  const sites = await Promise.all(
    Array.from({ length: atOnce }, () => createTargetSystem(user, image, {})),
  );
  const found = await Promise.all(sites.map((site) => becomes(site, 'READY')));
  const lastMs = performance.now() - started;
  await Promise.all(sites.map((site) => deleteAndWait(user, site, signal)));
  const tiers = [...new Set(found.map(({ start }) => start.tier))].join(', ');
  return { lastMs, tiers };
}

const told = async (fact: string): Promise<number> =>
  (await grid.logText()).split(`"msg":"${fact}"`).length - 1;

/** @returns what resolves, at its nth call, when the log has told this n times */
function counted(fact: string): () => Promise<unknown> {
  let times = 0;
  return () => {
    times += 1;
    return eventually(fact, async () => (await told(fact)) >= times, 300_000);
  };
}

/** Restarts the server with other settings. */
async function configure(settings: Record<string, object | undefined>): Promise<void> {
  await grid.stopServer();
  for (const [name, value] of Object.entries(settings))
    await grid.set('targetsystem', `xnjs.targetSystems.${name}`, value);
  const heard = once(news, 'open', { signal });
  await grid.startServer();
  await heard;
}

const ms = (value: number): string => `${value.toFixed(0)} ms`;

/** From libvirt's event, as another client of libvirt hears it, to the state in REST. */
async function eventToState(image: string, libvirt: LibvirtClient): Promise<number[]> {
  const times: number[] = [];
  for (let sample = 0; sample < eventSamples; sample++) {
    const site = await createTargetSystem(user, image, {});
    await becomes(site, 'READY');
    const uuid = site.split('/').at(-1) ?? '';
    const { dom } = await libvirt.call('domain_lookup_by_uuid', { uuid });
    const stopped = new Promise<number>((resolve) => {
      const ignore = libvirt.onLifecycle(({ dom: { uuid: id }, event }) => {
        if (id !== uuid || event !== 'stopped') return;
        ignore();
        resolve(performance.now());
      });
    });
    await libvirt.call('domain_destroy_flags', { dom, flags: 0 });
    const eventMs = await stopped;
    await becomes(site, 'ERROR');
    times.push(performance.now() - eventMs);
    await deleteAndWait(user, site, signal);
  }
  return times;
}

async function machineCold(vm: string, image: BuiltImage): Promise<number> {
  const bareMs: number[] = [];
  const bare = await measure(bareMachine(image, directory, (pid) => bareMs.push(cpuMs(pid))));
  const cold = await measure(() => timeStart(vm, 'cold'));
  print({
    what: 'machine, cold',
    value: `${ms(cold.median)} (${cold.list})`,
    baseline: `bare ${ms(bare.median)} (${bare.list})`,
    goal: '<= 1.15 of bare',
    met: cold.median <= 1.15 * bare.median,
  });
  const [coldCpu, bareCpu] = [qemuMs['cold'] ?? [], bareMs].map((all) => quantile(all, 0.5));
  print({
    what: 'machine, cold: processor time of QEMU',
    value: ms(coldCpu ?? NaN),
    baseline: `bare ${ms(bareCpu ?? NaN)}`,
    goal: 'none',
    met: true,
  });
  return cold.median;
}

/** @param coldMs of a cold start in the same run */
async function machineWarm(vm: string, coldMs: number): Promise<void> {
  await configure({ warm: { maxImages: 1 } });
  await timeStart(vm, 'cold'); // after which its memory is saved
  const warm = await measure(
    () => timeStart(vm, 'warm'),
    counted('a copy of saved memory is ready'),
  );
  print({
    what: 'machine, warm',
    value: `${ms(warm.median)} (${warm.list})`,
    baseline: `${(warm.median / coldMs).toFixed(2)} of cold`,
    goal: '<= 0.3 of cold, < 700 ms',
    met: warm.median <= 0.3 * coldMs && warm.median < 700,
  });
}

async function machinesTogether(vm: string): Promise<void> {
  const machines = await together(vm);
  print({
    what: `machines, ${atOnce} at once`,
    value: ms(machines.lastMs),
    baseline: machines.tiers,
    goal: 'none',
    met: true,
  });
}

async function machineSpare(vm: string): Promise<void> {
  await configure({
    spares: { images: { [vm]: 1 }, readAs: 'CN=Image Creator,O=VSite,C=EU' },
  });
  const spare = await measure(() => timeStart(vm, 'spare'), counted('a spare machine is ready'));
  print({
    what: 'machine, spare',
    value: `${ms(spare.median)} (${spare.list})`,
    goal: '< 100 ms',
    met: spare.median < 100,
  });
  await configure({ spares: undefined });
  await eventually('no spare is left', async () => (await grid.domains('qemu')).length === 0);
}

async function containers(container: string, libvirt: LibvirtClient): Promise<void> {
  const containerImage = await buildDemoContainer(build);
  const bareRoot = await measure(await bareContainer(containerImage, directory));
  const byLibvirt = await measure(
    libvirtContainer(containerImage, libvirt, join(grid.layout.state, 'by-hand')),
  );
  const contained = await measure(() => timeStart(container, 'cold'));
  print({
    what: 'container',
    value: `${ms(contained.median)} (${contained.list})`,
    baseline: `bare ${ms(bareRoot.median)}, by libvirt alone ${ms(byLibvirt.median)}`,
    goal: '< 250 ms',
    met: contained.median < 250,
  });
  const several = await together(container);
  print({
    what: `containers, ${atOnce} at once`,
    value: ms(several.lastMs),
    baseline: several.tiers,
    goal: 'none',
    met: true,
  });
}

async function events(container: string, libvirt: LibvirtClient): Promise<void> {
  const times = await eventToState(container, libvirt);
  const p99 = quantile(times, 0.99);
  print({
    what: `event to REST state, p99 of ${eventSamples}`,
    value: `${p99.toFixed(1)} ms (p50 ${quantile(times, 0.5).toFixed(1)})`,
    goal: '< 50 ms',
    met: p99 < 50,
  });
}

printMachine();
const listening = new AbortController();
void listen();
await once(news, 'open', { signal });
const isWanted = (part: string): boolean => wanted?.includes(part) ?? true;
if (['cold', 'warm', 'spare'].some(isWanted)) {
  const image = await buildDemoVm(build);
  const vm = await grid.publishDemo('vm');
  const coldMs = isWanted('cold') ? await machineCold(vm, image) : NaN;
  if (isWanted('warm')) {
    await machineWarm(vm, coldMs);
    await machinesTogether(vm);
    await configure({ warm: undefined });
  }
  if (isWanted('spare')) await machineSpare(vm);
}
if (['container', 'events'].some(isWanted)) {
  const container = await grid.publishDemo('container');
  await using libvirt = await LibvirtClient.connect({
    uri: grid.libvirtd.uri('lxc'),
    log: silentLog,
  });
  if (isWanted('container')) await containers(container, libvirt);
  if (isWanted('events')) await events(container, libvirt);
}
listening.abort();
