import assert from 'node:assert/strict';
import { execFileSync, spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseDocument } from 'yaml';
import { startLibvirtd, type Libvirtd } from '#cli/host/libvirtd.js';
import { isRunning, kill, readRecord, waitFor } from '#cli/host/process.js';
import { buildDemoContainer, buildDemoVm, buildImage, type BuiltImage } from '#cli/image/build.js';
import {
  creatorName,
  demoUser,
  siteUrl,
  writeConfiguration,
} from '#cli/quickstart/configuration.js';
import { defaultCacheDirectory, layoutOf, type Layout } from '#cli/quickstart/layout.js';
import { publish } from '#cli/quickstart/main-job.js';
import { startServer, stopServer } from '#cli/quickstart/server.js';
import type { ServiceName } from '#cli/serve.js';
import type { ImageMetadata } from '#imagerepo/contract.js';
import { asGridError } from '#kernel/errors.js';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { silentLog } from '#kernel/log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { addUser } from '#kernel/security/users.js';
import { inProject, nodeFlags, program } from '../program.js';
import { provideIdentities } from '../shared-files.js';

/** Why tests with real machines cannot run here; `false` where they can. */
export const noMachines = findReason([
  ['qemu-system-x86_64', '--version'],
  ['libvirtd', '--version'],
  ['tini', '--version'],
]);
/** Containers need libvirt as root. */
export const noContainers = noMachines || (process.getuid?.() === 0 ? false : 'needs root');

export function findReason(programs: readonly (readonly [string, ...string[]])[]): string | false {
  for (const [program, ...args] of programs)
    try {
      execFileSync(program, args, { stdio: 'ignore' });
    } catch {
      return `${program} is not installed`;
    }
  return false;
}

const commandLine = program('cli/main.ts');
export const sitePath = '/VSITE/rest/core';
export const imagesPath = '/IMAGES/rest/images';
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

  static async start({ parent = tmpdir(), prepare }: GridOptions = {}): Promise<Grid> {
    const directory = await mkdtemp(join(parent, 'vsite-grid-'));
    await chmod(directory, 0o711); // containers have to get through
    const layout = layoutOf(directory);
    const libvirtd = await startLibvirtd({
      stateDir: layout.libvirt,
      cacheDir: join(defaultCacheDirectory(), 'libvirt'),
      log: silentLog,
    });
    const grid = new Grid(layout, await freePort(), libvirtd);
    try {
      await provideIdentities(layout);
      await writeConfiguration(layout, grid.address, {
        machines: libvirtd.uri('qemu'),
        acceleration: 'qemu',
        containers: libvirtd.drivers.includes('lxc') ? libvirtd.uri('lxc') : undefined,
      });
      await prepare?.(grid);
      await grid.startServer();
      return grid;
    } catch (error) {
      await grid[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Changes a setting of a service for its next start, or takes it out: `xnjs.targetSystems.bootTimeoutSeconds`. */
  async set(service: ServiceName, path: string, value: unknown): Promise<void> {
    const file = join(this.layout.config, `${service}.yaml`);
    const document = parseDocument(await readFile(file, 'utf8'));
    if (value === undefined) document.deleteIn(path.split('.'));
    else document.setIn(path.split('.'), value);
    await writeFile(file, document.toString());
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

  async addUser(
    name: string,
    password: string,
    role: 'user' | 'admin' = 'user',
  ): Promise<HttpClient> {
    await addUser(this.layout.users, { name, password, dn: `CN=${name},O=VSite,C=EU`, role });
    const client = await this.client({ user: name, password });
    await eventually(`the server knows ${name}`, async () => {
      const refused = await client.json('GET', sitePath).then(() => undefined, asGridError);
      return refused?.details['status'] !== 401 && refused?.details['status'] !== 403;
    });
    return client;
  }

  /** Runs `vsite` as the demo user would, with the profile of the quick start. */
  vsite(args: readonly string[], cwd?: string): ChildProcessWithoutNullStreams {
    const env = { ...process.env, VSITE_PROFILE: join(this.layout.state, 'client.yaml') };
    return spawn(process.execPath, [...nodeFlags, commandLine, ...args], { env, cwd });
  }

  /** Builds a demo image, or takes it from the cache, and publishes it. @returns its id */
  async publishDemo(kind: 'vm' | 'container'): Promise<string> {
    const options = { cacheDir: join(defaultCacheDirectory(), 'images'), log: silentLog };
    const image: BuiltImage =
      kind === 'vm' ? await buildDemoVm(options) : await buildDemoContainer(options);
    return await publish(await this.creator(), image);
  }

  /** As {@link publishDemo}, of another folder of config/images. */
  async publishOwnImage(name: string): Promise<string> {
    const folder = inProject(`config/images/${name}`);
    const cacheDir = join(defaultCacheDirectory(), 'images');
    return await publish(
      await this.creator(),
      await buildImage(folder, { cacheDir, log: silentLog }),
    );
  }

  /** Builds an image of test/fixtures/images, or takes it from the cache, and publishes it. @returns its id */
  async publishTestImage(name: string): Promise<string> {
    const folder = inProject(`test/fixtures/images/${name}`);
    const cacheDir = join(defaultCacheDirectory(), 'images');
    return await publish(
      await this.creator(),
      await buildImage(folder, { cacheDir, log: silentLog }),
    );
  }

  /** Publishes an image of the creator's. @returns its id */
  async publishImage(
    metadata: Pick<ImageMetadata, 'name' | 'format'> & Partial<ImageMetadata>,
    parts: Record<string, Buffer>,
  ): Promise<string> {
    const creator = await this.creator();
    const { headers } = await creator.json('POST', imagesPath, {
      version: '1.0',
      visibility: 'public',
      os: { distribution: 'Debian', version: '12' },
      requirements: {
        cpus: { min: 1, default: 1, max: 1 },
        memoryMiB: { min: 64, default: 64, max: 128 },
      },
      tsi: { login: 'grid', jobsDirectory: '/home/grid/jobs' },
      ...metadata,
    });
    const path = new URL(String(headers['location'])).pathname;
    for (const [name, content] of Object.entries(parts))
      await creator.upload('PUT', `${path}/parts/${name}`, Readable.from([content]));
    await creator.json('POST', `${path}/actions/publish`, {});
    return path.split('/').at(-1)!;
  }

  /** Everything that a refused request could leave behind. */
  async inventory(): Promise<object> {
    const { state } = this.layout;
    const rows = async (database: string, tables: readonly string[]): Promise<unknown[]> => {
      const url = `sqlite:${join(state, `${database}.sqlite`)}`;
      await using opened = await openDatabase({ url, log: silentLog });
      const counts = tables.map((name) => opened.sequelize.query(`SELECT count(*) n FROM ${name}`));
      return (await Promise.all(counts)).map(([[row]], i) => [tables[i], row]);
    };
    const images = await readdir(join(state, 'images'), { recursive: true, withFileTypes: true });
    return {
      domains: (await Promise.all(this.libvirtd.drivers.filter(isReal).map((d) => this.domains(d))))
        .flat()
        .sort(),
      directories: (await this.machineDirectories()).sort(),
      store: images
        .filter((entry) => entry.isFile())
        .map(({ name }) => name)
        .sort(),
      rows: [
        await rows('targetsystem', ['target_systems', 'jobs', 'job_tags']),
        await rows('imagerepo', ['images', 'image_parts']),
      ],
    };
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

type GridOptions = {
  /** Folder in which its own is made. */
  readonly parent?: string;
  /** Runs when everything is there and the server has not started yet. */
  readonly prepare?: (grid: Grid) => Promise<void>;
};

const isReal = (driver: string): driver is 'qemu' | 'lxc' => driver !== 'test';

/** For `assert.rejects`: the answer has this status, and says this. */
export const refusal =
  (status: number, text: RegExp) =>
  (error: unknown): true => {
    const refused = asGridError(error);
    assert.ok(refused, String(error));
    assert.equal(refused.details['status'], status, refused.message);
    assert.match(refused.message, text);
    return true;
  };

/** Runs a script as a job there. @returns what it printed, when it has succeeded */
export async function outputOf(user: HttpClient, site: string, script: string): Promise<string> {
  const { headers } = await user.json('POST', `${site}/jobs`, { Executable: script });
  const job = new URL(String(headers['location'])).pathname;
  await eventually('the job has ended', async () => {
    const { status } = (await user.json('GET', job)).body as { status: string };
    assert.notEqual(status, 'FAILED');
    return status === 'SUCCESSFUL';
  });
  return await stdoutOf(user, job);
}

export async function stdoutOf(user: HttpClient, job: string): Promise<string> {
  const uspace = `${sitePath}/storages/${job.split('/').at(-1)!}-uspace`;
  return await text((await user.download(`${uspace}/files/stdout`)).body);
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
