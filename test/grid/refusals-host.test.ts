import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { mkdir, readdir, rm, statfs } from 'node:fs/promises';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { deleteAndWait } from '#cli/client/resources.js';
import { startLibvirtd } from '#cli/host/libvirtd.js';
import { defaultCacheDirectory, temporaryStatePrefix } from '#cli/quickstart/layout.js';
import { createTargetSystem, waitUntilReady } from '#cli/quickstart/main-job.js';
import type { HttpClient } from '#kernel/http/client.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { projectRoot } from '#kernel/project-root.js';
import { nodeFlags, program } from '../program.js';
import { mountTinyDisk } from '../kernel/persistence/tiny-disk.js';
import {
  eventually,
  exists,
  factoryPath,
  Grid,
  imagesPath,
  noContainers,
  refusal,
  sitePath,
} from './grid.js';

type Job = { status: string; statusMessage: string };
type Site = { resourceStatus: string; resourceStatusMessage: string; vm: { state: string } };
const signal = AbortSignal.timeout(240_000);
const image = 'vsite-demo-container';

async function submit(user: HttpClient, site: string, job: object): Promise<string> {
  const { headers } = await user.json('POST', `${site}/jobs`, job);
  return new URL(String(headers['location'])).pathname;
}

const until = (user: HttpClient, path: string, status: string): Promise<Job> =>
  eventually(`${path} is ${status}`, async () => {
    const job = (await user.json('GET', path)).body as Job;
    return job.status === status && job;
  });

const readSite = async (user: HttpClient, path: string): Promise<Site> =>
  (await user.json('GET', path)).body as Site;

async function newSite(user: HttpClient): Promise<string> {
  const site = await createTargetSystem(user, image, {});
  await waitUntilReady(user, site, signal, () => undefined);
  return site;
}

/** Runs `vsite`. @returns how it ended, and all that it wrote */
function vsite(...args: string[]): Promise<{ code: number; output: string }> {
  const node = [...nodeFlags, program('cli/main.ts'), ...args];
  return new Promise((resolve) => {
    execFile(process.execPath, node, { cwd: projectRoot, timeout: 60_000 }, (error, out, err) =>
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, output: out + err }),
    );
  });
}

/** Stands between server and libvirtd, and can be pulled out: then libvirtd is away, its guests are not. */
class Plug {
  readonly path: string;
  readonly #target: string;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;

  constructor(path: string, target: string) {
    this.path = path;
    this.#target = target;
  }

  async in(): Promise<void> {
    const server = createServer((socket) => {
      const upstream = connect(this.#target);
      for (const [from, to] of [
        [socket, upstream],
        [upstream, socket],
      ] as const) {
        this.#sockets.add(from);
        from.pipe(to);
        from.on('error', () => to.destroy()).on('close', () => to.destroy());
      }
    });
    await new Promise<void>((resolve) => server.listen(this.path, resolve));
    this.#server = server;
  }

  async out(): Promise<void> {
    const closed = new Promise((resolve) => this.#server?.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
    await closed;
  }
}

describe('without libvirtd', { skip: noContainers }, () => {
  let grid: Grid;
  let user: HttpClient;
  let plug: Plug;
  before(async () => {
    grid = await Grid.start({
      prepare: async (grid) => {
        const { socketPath } = grid.libvirtd;
        plug = new Plug(join(grid.layout.run, 'plug.sock'), socketPath);
        await plug.in();
        for (const [name, driver] of [
          ['machines', 'qemu'],
          ['containers', 'lxc'],
        ] as const) {
          const uri = grid.libvirtd.uri(driver);
          const plugged = uri.replace(/socket=.*/, `socket=${encodeURIComponent(plug.path)}`);
          await grid.set('targetsystem', `xnjs.hypervisor.${name}`, plugged);
        }
      },
    });
    await grid.publishDemo('container');
    user = await grid.user();
  });
  after(async () => {
    await plug.out();
    await grid[Symbol.asyncDispose]();
  });

  const connections = (state: 'OK' | 'DOWN'): Promise<unknown> =>
    eventually(`libvirt is ${state}`, async () => {
      const { body } = await user.json('GET', sitePath);
      const { server } = body as { server: { externalConnections: Record<string, string> } };
      return Object.values(server.externalConnections).every((each) => each === state);
    });
  const refuses = async (): Promise<void> => {
    const before = await grid.inventory();
    await assert.rejects(
      user.json('POST', factoryPath, { image }),
      refusal(503, /libvirt for lxc .* rootfs/),
    );
    assert.deepEqual(await grid.inventory(), before);
  };

  it('no target system is made, and those that are there work on', async () => {
    const site = await newSite(user);
    await plug.out();
    await connections('DOWN');
    await refuses();
    const job = await submit(user, site, { Executable: 'true' });
    await until(user, job, 'SUCCESSFUL');
    assert.equal((await readSite(user, site)).resourceStatus, 'READY');

    // a deletion is accepted, and done when libvirt is back
    await user.json('DELETE', site);
    assert.equal((await readSite(user, site)).resourceStatus, 'SHUTTING_DOWN');
    await plug.in();
    await connections('OK');
    await eventually('all is gone', async () => (await grid.machineDirectories()).length === 0);
    assert.deepEqual(await grid.domains('lxc'), []);
  });

  it('the server starts, declares nothing dead, and works when libvirtd is back', async () => {
    const site = await newSite(user);
    const job = await submit(user, site, { Executable: 'sleep 1' });
    await until(user, job, 'RUNNING');
    await plug.out();
    await grid.stopServer();
    await grid.startServer();
    await connections('DOWN');
    await refuses();
    const { vm, resourceStatusMessage } = await readSite(user, site);
    assert.match(vm.state, /READY|UNREACHABLE/, resourceStatusMessage);
    await plug.in();
    await connections('OK');
    await until(user, job, 'SUCCESSFUL');
    await until(user, await submit(user, site, { Executable: 'true' }), 'SUCCESSFUL');
    await deleteAndWait(user, site, signal);
  });

  it('that took its guests with it, they and their jobs end FAILED with the reason', async () => {
    const site = await newSite(user);
    const job = await submit(user, site, { Executable: 'sleep 600' });
    await until(user, job, 'RUNNING');
    await grid.libvirtd.stop();
    await connections('DOWN');
    await refusesWithoutDomains();
    await startLibvirtd({
      stateDir: grid.layout.libvirt,
      cacheDir: join(defaultCacheDirectory(), 'libvirt'),
      log: silentLog,
    });
    const reason = /the domain no longer exists|the machine has stopped/;
    const failed = await until(user, job, 'FAILED');
    assert.match(failed.statusMessage, reason);
    const found = await readSite(user, site);
    assert.deepEqual([found.vm.state, found.resourceStatus], ['FAILED', 'ERROR']);
    assert.match(found.resourceStatusMessage, reason);
    await deleteAndWait(user, site, signal);
    assert.deepEqual(await grid.machineDirectories(), []);
    await deleteAndWait(user, await newSite(user), signal);
    assert.deepEqual(await grid.domains('lxc'), []);
  });

  /** There is nobody to ask for domains. */
  async function refusesWithoutDomains(): Promise<void> {
    const before = await grid.machineDirectories();
    await assert.rejects(
      user.json('POST', factoryPath, { image }),
      refusal(503, /libvirt for lxc/),
    );
    assert.deepEqual(await grid.machineDirectories(), before);
  }

  describe('a port in use', () => {
    let taken: Server;
    let port: number;
    before(async () => {
      taken = createServer((socket) => socket.destroy());
      await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
      port = (taken.address() as AddressInfo).port;
    });
    after(() => new Promise((resolve) => taken.close(resolve)));

    it('ends serve with its name', async () => {
      const { code, output } = await vsite('serve', '--config', grid.layout.config, '--only', 'gateway'); // prettier-ignore
      assert.equal(code, 1);
      assert.match(output, new RegExp(`vsite: 127.0.0.1:${grid.address.port} is used by another`));
      await user.json('GET', sitePath);
    });

    it('of the same installation ends serve, and the first goes on', async () => {
      const { code, output } = await vsite('serve', '--config', grid.layout.config);
      assert.equal(code, 1);
      assert.match(output, /vsite: .*imagerepo\.sock is used by another program/);
      await user.json('GET', sitePath);
    });

    it('ends a quickstart before it begins, and nothing is left', async () => {
      const states = async (): Promise<string[]> =>
        (await readdir(dirname(temporaryStatePrefix))).filter((name) =>
          name.startsWith(basename(temporaryStatePrefix)),
        );
      const before = await states();
      const { code, output } = await vsite('quickstart', '--once', '--port', String(port));
      assert.equal(code, 1);
      assert.match(output, new RegExp(`vsite: .*127.0.0.1:${port} is used by another program`));
      const left = (await states()).filter((name) => !before.includes(name));
      assert.deepEqual(left, []);
    });
  });
});

describe('a full disk', { skip: noContainers }, () => {
  const scope = new Scope();
  let grid: Grid;
  let user: HttpClient;
  let filler: string;
  before(async () => {
    const disk = await mountTinyDisk(scope, '400m');
    if ('skip' in disk) throw new Error(disk.skip);
    execFileSync('chmod', ['711', disk.path]);
    filler = join(disk.path, 'filler');
    grid = await Grid.start({ parent: disk.path });
    await grid.publishDemo('container');
    user = await grid.user();
  });
  after(async () => {
    await grid[Symbol.asyncDispose]();
    await rm(filler, { force: true });
    await scope.close();
  });

  async function fill(leaveMiB: number): Promise<void> {
    for (let tries = 10; ; tries--) {
      const { bavail, bsize } = await statfs(dirname(filler));
      const size = String(bavail * bsize - leaveMiB * 2 ** 20);
      try {
        execFileSync('fallocate', ['-l', size, filler], { stdio: 'ignore' });
        return;
      } catch (error) {
        // the server may have written something since we looked
        if (tries === 0) throw error;
        await rm(filler, { force: true });
      }
    }
  }
  const empty = (): Promise<void> => rm(filler);

  it('refuses an image and keeps nothing of it', async () => {
    const creator = await grid.creator();
    const { body } = await creator.json('GET', `${imagesPath}?details=true&name=${image}`);
    const [{ metadata }] = (body as { records: [{ metadata: object }] }).records;
    const { headers } = await creator.json('POST', imagesPath, { ...metadata, name: 'large' });
    const draft = new URL(String(headers['location'])).pathname;
    const before = await grid.inventory();
    await fill(2);
    const put = (): Promise<unknown> =>
      creator.upload('PUT', `${draft}/parts/rootfs`, Readable.from([Buffer.alloc(8 * 2 ** 20)]));
    await assert.rejects(put(), refusal(507, /no space left for images/));
    assert.deepEqual(await grid.inventory(), before);
    await empty();
    await put();
    await creator.json('DELETE', draft);
  });

  it('fails a target system whose files do not fit, which can be deleted', async () => {
    const content = join(dirname(filler), 'var');
    await mkdir(content);
    execFileSync('fallocate', ['-l', '8M', join(content, 'large')]);
    const tar = execFileSync('tar', ['-c', '-C', dirname(filler), 'var'], {
      maxBuffer: 32 * 2 ** 20,
    });
    await rm(content, { recursive: true });
    const large = await grid.publishImage({ name: 'fat', format: 'rootfs' }, { rootfs: tar });
    await fill(12); // once, but not twice
    const site = await createTargetSystem(user, large, {});
    const failed = await eventually('it fails', async () => {
      const found = await readSite(user, site);
      return found.vm.state === 'FAILED' && found;
    });
    assert.match(failed.resourceStatusMessage, /no space left/);
    await deleteAndWait(user, site, signal);
    assert.deepEqual(await grid.machineDirectories(), []);
    assert.deepEqual(await grid.domains('lxc'), []);
    await empty();
  });

  it('refuses jobs, and the server goes on when there is space again', async () => {
    const site = await newSite(user);
    const before = await grid.inventory();
    await fill(0);
    const Environment = { LARGE: 'x'.repeat(900_000) };
    const refused = (error: unknown): true => refusal(507, /no space left for the database/)(error);
    for (let i = 0; i < 3; i++)
      await assert.rejects(submit(user, site, { Executable: 'true', Environment }), refused);
    assert.equal((await readSite(user, site)).resourceStatus, 'READY');
    await empty();
    assert.deepEqual(await grid.inventory(), before);
    const job = await submit(user, site, { Executable: 'echo alive' });
    await until(user, job, 'SUCCESSFUL');
    const uspace = `${sitePath}/storages/${basename(job)}-uspace`;
    const { body } = await user.download(`${uspace}/files/stdout`);
    assert.equal(await text(body), 'alive\n');
    await deleteAndWait(user, site, signal);
    assert.ok(!(await exists(join(grid.layout.state, 'vms', basename(site)))));
  });
});
