import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { setPriority, tmpdir, userInfo } from 'node:os';
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
import type { ServiceName } from '#cli/serve.js';
import { ImageMetadata } from '#imagerepo/contract.js';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import { Scope } from '#kernel/scope.js';
import { freePort } from '../../grid/grid.js';
import { bzImage, gzipped, metadata } from '../../imagerepo/samples.js';
import type { Asking } from './client.js';
import { AgentProcesses } from './guests.js';
import { FakeLibvirtd } from './libvirtd.js';
import { readMetrics, valueOf } from './scrape.js';

type MetricsUrls = Readonly<Record<ServiceName, string>>;

/** A server as the quickstart runs it, in front of a fake of libvirtd; its figures are served. */
export class Installation implements AsyncDisposable {
  readonly layout: Layout;
  readonly daemon: FakeLibvirtd;
  readonly url: string;
  /** Where each service serves its figures. */
  readonly metricsUrls: MetricsUrls;
  readonly #scope: Scope;

  private constructor(parts: {
    layout: Layout;
    daemon: FakeLibvirtd;
    url: string;
    metricsUrls: MetricsUrls;
    scope: Scope;
  }) {
    this.layout = parts.layout;
    this.daemon = parts.daemon;
    this.url = parts.url;
    this.metricsUrls = parts.metricsUrls;
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
    await writeIdentities(layout);
    const machines = `qemu+unix:///system?socket=${socket}`;
    await writeConfiguration(layout, address, { machines, acceleration: 'qemu' });
    const metricsUrls = await configure(layout);
    const url = siteUrl(address);
    scope.defer(() => stopServer(layout));
    const installation = new Installation({ layout, daemon, url, metricsUrls, scope });
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

  async client(
    user: string = demoUser.name,
    passwordFile = this.layout.demoPassword,
  ): Promise<HttpClient> {
    const { ca, auth } = await this.credentials(user, passwordFile);
    return this.#scope.use(createHttpClient({ baseUrl: this.url, tls: { ca }, auth }));
  }

  /** What a client needs that is a process of its own. */
  async credentials(
    user: string = demoUser.name,
    passwordFile = this.layout.demoPassword,
  ): Promise<Pick<Asking, 'ca' | 'auth'>> {
    const ca = await readFile(join(this.layout.credentials, 'ca.pem'), 'utf8');
    return { ca, auth: { user, password: (await readFile(passwordFile, 'utf8')).trim() } };
  }

  /** Resolves when so many agents answer. @throws when they do not within `mostMs` */
  async untilUp(count: number, mostMs: number): Promise<number> {
    const startedMs = performance.now();
    for (;;) {
      const found = await readMetrics(this.metricsUrls.targetsystem).catch(() => '');
      const up = valueOf(found, 'vsite_agent_links{state="up"}');
      const ms = performance.now() - startedMs;
      if (up >= count) return ms;
      if (ms > mostMs) throw new Error(`${up} of ${count} agents answer after ${mostMs} ms`);
      await sleep(1_000);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#scope.close();
  }
}

async function configure({ config }: Layout): Promise<MetricsUrls> {
  const urls = { gateway: '', imagerepo: '', targetsystem: '' };
  for (const service of Object.keys(urls) as ServiceName[]) {
    const port = await freePort();
    const file = join(config, `${service}.yaml`);
    const document = parseDocument(await readFile(file, 'utf8'));
    document.set('metrics', { port });
    if (service === 'targetsystem')
      document.setIn(['xnjs', 'targetSystems', 'limits', 'perUser'], 100_000);
    await writeFile(file, document.toString());
    urls[service] = `http://127.0.0.1:${port}/metrics`;
  }
  return urls;
}

/** One whose jobs run on this host. @returns its id */
export async function publishImage(installation: Installation): Promise<string> {
  const { layout } = installation;
  const parts = { kernel: join(layout.state, 'k'), initrd: join(layout.state, 'i') };
  await writeFile(parts.kernel, bzImage('kernel'));
  await writeFile(parts.initrd, gzipped('initrd'));
  const jobsDirectory = join(layout.state, 'jobs');
  await mkdir(jobsDirectory, { recursive: true });
  await chmod(jobsDirectory, 0o1777);
  // an agent of root's runs nothing as root
  const login = process.getuid?.() === 0 ? 'nobody' : userInfo().username;
  const tsi = { login, jobsDirectory };
  const described = ImageMetadata.parse(metadata({ visibility: 'public', tsi }));
  const creator = await installation.client(creatorName, layout.creatorPassword);
  return await publish(creator, { metadata: described, parts, key: '', cached: false });
}
