import { execFileSync } from 'node:child_process';
import { chmod, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startLibvirtd, type Libvirtd } from '#cli/host/libvirtd.js';
import { isRunning, kill, readRecord, waitFor } from '#cli/host/process.js';
import { buildDemoContainer, buildDemoVm, type BuiltImage } from '#cli/image/build.js';
import {
  creatorName,
  demoUser,
  siteUrl,
  writeConfiguration,
  writeIdentities,
} from '#cli/quickstart/configuration.js';
import { defaultCacheDirectory, layoutOf, type Layout } from '#cli/quickstart/layout.js';
import { publish } from '#cli/quickstart/main-job.js';
import { startServer, stopServer } from '#cli/quickstart/server.js';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog } from '#kernel/log.js';
import { addUser } from '#kernel/security/users.js';

/** Why tests with real machines cannot run here; `false` where they can. */
export const noMachines = findReason([
  ['qemu-system-x86_64', '--version'],
  ['libvirtd', '--version'],
  ['tini', '--version'],
]);
/** Containers need libvirt as root. */
export const noContainers = noMachines || (process.getuid?.() === 0 ? false : 'needs root');

function findReason(programs: readonly (readonly [string, ...string[]])[]): string | false {
  for (const [program, ...args] of programs)
    try {
      execFileSync(program, args, { stdio: 'ignore' });
    } catch {
      return `${program} is not installed`;
    }
  return false;
}

export const sitePath = '/VSITE/rest/core';
export const factoryPath = `${sitePath}/factories/default_target_system_factory`;

/**
 * A whole installation of its own: libvirtd, certificates, users, and the server as a process that can
 * be killed. Nothing here is a fake.
 */
export class Grid implements AsyncDisposable {
  readonly layout: Layout;
  readonly address: { readonly host: string; readonly port: number };
  readonly libvirtd: Libvirtd;
  readonly #clients: HttpClient[] = [];

  private constructor(layout: Layout, port: number, libvirtd: Libvirtd) {
    this.layout = layout;
    this.address = { host: '127.0.0.1', port };
    this.libvirtd = libvirtd;
  }

  static async start(): Promise<Grid> {
    const directory = await mkdtemp(join(tmpdir(), 'vsite-grid-'));
    await chmod(directory, 0o711); // containers have to get through
    const layout = layoutOf(directory);
    const libvirtd = await startLibvirtd({
      stateDir: layout.libvirt,
      cacheDir: join(defaultCacheDirectory(), 'libvirt'),
      log: silentLog,
    });
    const grid = new Grid(layout, await freePort(), libvirtd);
    await writeIdentities(layout);
    await writeConfiguration(layout, grid.address, {
      machines: libvirtd.uri('qemu'),
      acceleration: 'qemu',
      containers: libvirtd.drivers.includes('lxc') ? libvirtd.uri('lxc') : undefined,
    });
    await grid.startServer();
    return grid;
  }

  get url(): string {
    return siteUrl(this.address);
  }

  get caFile(): string {
    return join(this.layout.credentials, 'ca.pem');
  }

  async startServer(): Promise<void> {
    await startServer(this.layout, this.url);
  }

  async stopServer(): Promise<void> {
    await stopServer(this.layout);
  }

  /** `kill -9`: no chance to tidy up. */
  async killServer(): Promise<void> {
    const record = await readRecord(this.layout.serverRecord);
    if (!record) return;
    await kill(record);
    await waitFor(async () => !(await isRunning(record)), 10_000);
  }

  /** A client with a password, or without any credentials. */
  async client(auth?: { user: string; password: string }): Promise<HttpClient> {
    const ca = await readFile(this.caFile, 'utf8');
    const client = createHttpClient({ baseUrl: this.url, tls: { ca }, ...(auth && { auth }) });
    this.#clients.push(client);
    return client;
  }

  user(): Promise<HttpClient> {
    return this.client({ user: demoUser.name, password: demoUser.password });
  }

  async creator(): Promise<HttpClient> {
    const password = (await readFile(this.layout.creatorPassword, 'utf8')).trim();
    return await this.client({ user: creatorName, password });
  }

  async addUser(name: string, password: string): Promise<HttpClient> {
    await addUser(this.layout.users, { name, password, dn: `CN=${name},O=VSite,C=EU` });
    return await this.client({ user: name, password });
  }

  /** Builds a demo image, or takes it from the cache, and publishes it. @returns its id */
  async publishDemo(kind: 'vm' | 'container'): Promise<string> {
    const options = { cacheDir: join(defaultCacheDirectory(), 'images'), log: silentLog };
    const image: BuiltImage =
      kind === 'vm' ? await buildDemoVm(options) : await buildDemoContainer(options);
    return await publish(await this.creator(), image);
  }

  /** Names of all domains of a driver, running or not, asked past our server. */
  async domains(driver: 'qemu' | 'lxc'): Promise<string[]> {
    await using libvirt = await LibvirtClient.connect({
      uri: this.libvirtd.uri(driver),
      log: silentLog,
    });
    const { domains } = await libvirt.call('connect_list_all_domains', {
      need_results: 1,
      flags: 0,
    });
    return domains.map(({ name }) => name);
  }

  /** What is left on the disk of target systems. */
  async machineDirectories(): Promise<string[]> {
    return await readdir(join(this.layout.state, 'vms')).catch(() => []);
  }

  async logText(): Promise<string> {
    return await readFile(this.layout.log, 'utf8');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.close()));
    await stopServer(this.layout);
    await this.libvirtd.stop();
    await rm(this.layout.state, { recursive: true, force: true });
  }
}

/** Polls until `probe` gives something. @throws after the deadline, saying what was waited for */
export async function eventually<T>(
  what: string,
  probe: () => Promise<T | undefined | false>,
  timeoutMs = 60_000,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const found = await probe();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await sleep(50);
  }
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}
