import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Listr, PRESET_TIMER, type ListrTask } from 'listr2';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import { silentLog } from '#kernel/log.js';
import { deleteAndWait } from '../client/resources.js';
import { probeKvm } from '../host/kvm.js';
import { findLibvirtd, startLibvirtd, stopLibvirtd } from '../host/libvirtd.js';
import { buildDemoContainer, buildDemoVm, type BuiltImage } from '../image/build.js';
import {
  creatorName,
  demoUser,
  siteUrl,
  writeConfiguration,
  writeIdentities,
  type Hypervisors,
} from './configuration.js';
import { explainFailure } from './failure.js';
import { layoutOf, temporaryStatePrefix, type Layout } from './layout.js';
import {
  createTargetSystem,
  findImage,
  publish,
  readTimeline,
  QuickstartError,
  runJob,
  waitUntilReady,
  type JobOutcome,
} from './main-job.js';
import { howToGoOn } from './outro.js';
import { startServer, stopServer } from './server.js';
import { drawTimeline, lastMark, type Boot } from './timeline.js';

export type QuickstartOptions = {
  readonly stateDir: string;
  readonly cacheDir: string;
  readonly host: string;
  readonly port: number;
  readonly once?: true;
};

const application = 'Transform';
const input = 'grid middleware, for the people who need it\n';

/** What the steps have brought about so far. */
type Progress = {
  images: (BuiltImage & { kernel?: string })[];
  hypervisors?: Hypervisors;
  user?: HttpClient;
  runs: { what: string; boot: Boot; outcome: JobOutcome }[];
};
type Step = ListrTask<Progress>;
type Task = Parameters<Step['task']>[1];

const seconds = (ms: number): string => `${(ms / 1_000).toFixed(1)} s`;
const timer = { ...PRESET_TIMER, condition: true, field: seconds };

/** The main job of VSite on this machine, step by step. @throws the first failure */
export async function quickstart(options: QuickstartOptions, signal: AbortSignal): Promise<void> {
  const stateDir = options.once ? await mkdtemp(temporaryStatePrefix) : resolve(options.stateDir);
  if (options.once) await chmod(stateDir, 0o711);
  const layout = layoutOf(stateDir);
  const progress: Progress = { images: [], runs: [] };
  const steps = new Listr<Progress>(new Steps(options, layout, signal).all(), {
    rendererOptions: { timer, collapseSubtasks: false },
    fallbackRendererOptions: { timer },
  });
  try {
    await steps.run(progress);
    for (const run of progress.runs) process.stdout.write(report(run));
    if (!options.once) process.stdout.write(howToGoOn(layout, siteUrl(options), application));
  } catch (error) {
    const keepIn = options.once && join(options.cacheDir, 'last-failure');
    const text = await explainFailure(error, layout, keepIn);
    throw new QuickstartError('INTERNAL', text, {}, { cause: error });
  } finally {
    await progress.user?.close();
    if (options.once) await takeDown(layout);
  }
}

/** Takes down what a quickstart has left running. The state folder stays. */
export async function stop({ stateDir }: Pick<QuickstartOptions, 'stateDir'>): Promise<void> {
  const layout = layoutOf(resolve(stateDir));
  await stopServer(layout);
  await stopLibvirtd(layout.libvirt);
  process.stdout.write(`stopped; ${layout.state} is kept\n`);
}

async function takeDown(layout: Layout): Promise<void> {
  await stopServer(layout);
  await stopLibvirtd(layout.libvirt);
  await rm(layout.state, { recursive: true, force: true });
}

class Steps {
  readonly #options: QuickstartOptions;
  readonly #layout: Layout;
  readonly #signal: AbortSignal;

  constructor(options: QuickstartOptions, layout: Layout, signal: AbortSignal) {
    this.#options = options;
    this.#layout = layout;
    this.#signal = signal;
  }

  all(): Step[] {
    return [
      { title: 'Demo images', task: (progress, task) => this.#images(progress, task) },
      { title: 'Identities', task: (_progress, task) => this.#identities(task) },
      { title: 'Hypervisor', task: (progress, task) => this.#hypervisor(progress, task) },
      { title: 'Server', task: (progress, task) => this.#server(progress, task) },
      { title: 'Publish the images', task: (progress, task) => this.#publish(progress, task) },
      {
        title: 'A job in a virtual machine',
        task: (progress, task) => this.#run(progress, task, 'kernel', 'virtual machine'),
      },
      {
        title: 'The same job in a container',
        skip: ({ hypervisors }) =>
          hypervisors?.containers === undefined && 'containers need libvirt as root',
        task: (progress, task) => this.#run(progress, task, 'rootfs', 'container'),
      },
    ];
  }

  async #images(progress: Progress, task: Task): Promise<void> {
    const build = {
      cacheDir: join(this.#options.cacheDir, 'images'),
      log: silentLog,
      progress: (step: string) => (task.output = step),
    };
    progress.images = [await buildDemoVm(build), await buildDemoContainer(build)];
    const how = progress.images.every(({ cached }) => cached) ? 'from the cache' : 'built';
    task.title = `Demo images (${how}, in ${build.cacheDir})`;
  }

  async #identities(task: Task): Promise<void> {
    await writeIdentities(this.#layout);
    task.title = `Certificates and users in ${this.#layout.state}`;
  }

  /** A libvirtd that answers, and the fastest way in which it really boots a guest. */
  async #hypervisor(progress: Progress, task: Task): Promise<void> {
    const stateDir = this.#layout.libvirt;
    task.output = 'looking for libvirtd';
    const cacheDir = join(this.#options.cacheDir, 'libvirt');
    const libvirtd =
      (await findLibvirtd(stateDir)) ??
      (await startLibvirtd({ stateDir, cacheDir, log: silentLog }));
    task.output = 'booting a guest to see whether KVM works';
    const kernel = progress.images.find((image) => image.kernel !== undefined)?.kernel ?? '';
    const kvm = await probeKvm({ kernel, stateDir: this.#options.cacheDir, log: silentLog });
    progress.hypervisors = {
      machines: libvirtd.uri('qemu'),
      acceleration: kvm.usable ? 'kvm' : 'qemu',
      containers: libvirtd.drivers.includes('lxc') ? libvirtd.uri('lxc') : undefined,
    };
    task.title = kvm.usable
      ? 'Hypervisor: libvirt with KVM'
      : `Hypervisor: libvirt with software emulation (KVM: ${kvm.reason})`;
  }

  async #server(progress: Progress, task: Task): Promise<void> {
    const url = siteUrl(this.#options);
    if (!progress.hypervisors) throw new TypeError('the hypervisor comes first');
    await writeConfiguration(this.#layout, this.#options, progress.hypervisors);
    const { started } = await startServer(this.#layout, url);
    progress.user = await this.#client(demoUser.name, demoUser.password);
    task.title = `Server at ${url}${started ? '' : ' (ran already)'}, log in ${this.#layout.log}`;
  }

  async #publish({ images }: Progress, task: Task): Promise<void> {
    const password = (await readFile(this.#layout.creatorPassword, 'utf8')).trim();
    await using creator = await this.#client(creatorName, password);
    for (const image of images) {
      task.output = `${image.metadata.name} ${image.metadata.version}`;
      await publish(creator, image);
    }
    task.title = `Published ${images.map(({ metadata }) => metadata.name).join(' and ')}`;
  }

  async #run(progress: Progress, task: Task, format: string, what: string): Promise<void> {
    const { user, runs } = progress;
    if (!user) throw new TypeError('the server comes first');
    const image = await findImage(user, application, format);
    task.output = `${image.metadata.name} provides ${application}; asking for a target system`;
    const memoryMiB = image.metadata.requirements.memoryMiB.default;
    const site = await createTargetSystem(user, image.id, { cpus: 1, memoryMiB });
    await waitUntilReady(user, site, this.#signal, (soFar) => {
      const text = `starting: ${lastMark(soFar)}`;
      if (task.output !== text) task.output = text; // without a terminal each is a line
    });
    const boot = await readTimeline(user, site, this.#signal);
    task.output = 'running the job';
    const outcome = await runJob(user, site, application, input, this.#signal);
    runs.push({ what, boot, outcome });
    task.title = `${task.title}: ready after ${boot.readyMs ?? 0} ms, ${outcome.status}`;
    if (format === 'kernel' && !this.#options.once) return; // to go on with
    task.output = 'deleting the target system';
    await deleteAndWait(user, site, this.#signal);
  }

  async #client(user: string, password: string): Promise<HttpClient> {
    const ca = await readFile(join(this.#layout.credentials, 'ca.pem'), 'utf8');
    return createHttpClient({
      baseUrl: siteUrl(this.#options),
      tls: { ca },
      auth: { user, password },
    });
  }
}

function report({ what, boot, outcome }: Progress['runs'][number]): string {
  return [
    '',
    `The start of the ${what}:`,
    ...drawTimeline(boot).map((line) => `  ${line}`),
    `The job's standard output (exit code ${outcome.exitCode}):`,
    ...outcome.stdout
      .trimEnd()
      .split('\n')
      .map((line) => `  ${line}`),
    '',
  ].join('\n');
}
