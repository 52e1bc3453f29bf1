// Run by machines.test.ts in a network namespace of its own: libvirt's networks and rules end with it.
// Argument: a file with the list of images.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { startLibvirtd } from '#cli/host/libvirtd.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import type { RawDescription } from '#xnjs/index.js';
import type { Job } from '#xnjs/job/job.js';
import { jobStatus } from '#xnjs/job/status.js';
import type { Target } from '#xnjs/target.js';
import { endToEndSuite, type SuiteRig } from '../xnjs/job/end-to-end-suite.js';
import { until } from '../xnjs/job/rig.js';
import { bootMs, ownerDn, startServer, type NetworkServer } from '../xnjs/vm/network-server.js';
import type { TsiImage } from './tsi-image.js';

const jobMs = 120_000;

/** One installation: libvirt, and a server that can be started again. */
class Site {
  readonly scope = new Scope();
  readonly #directory: string;
  #start: () => Promise<NetworkServer> = () => Promise.reject(new Error('not open'));
  #server: NetworkServer | undefined;

  constructor() {
    this.#directory = mkdtempSync(join(tmpdir(), 'vsite-tsi-vm-'));
    this.scope.defer(() => rmSync(this.#directory, { recursive: true, force: true }));
  }

  get server(): NetworkServer {
    assert.ok(this.#server);
    return this.#server;
  }

  async open({ image, tls }: TsiImage): Promise<void> {
    const libvirtd = await startLibvirtd({
      stateDir: join(this.#directory, 'libvirt'),
      cacheDir: join(defaultCacheDirectory(), 'libvirt'),
      log: silentLog,
      sharedNetwork: true,
    });
    this.scope.defer(() => libvirtd.stop());
    const uri = libvirtd.uri('qemu');
    // a network outlives its libvirtd, and its addresses are wanted again
    this.scope.defer(() => execFileSync('virsh', ['-c', uri, 'net-destroy', 'vsite']));
    const options = { images: [image], uri, ...(tls && { tls }) };
    this.#start = () => startServer(this.#directory, options);
    this.#server = await this.#start();
    this.scope.defer(() => this.#server?.scope.close());
  }

  async restart(): Promise<void> {
    await this.server.scope.close();
    this.#server = await this.#start();
  }

  async create(image: string): Promise<string> {
    const wish = { ownerDn, image, parameters: {}, tags: [] };
    const { id } = await this.server.systems.create(wish);
    await this.reaches(id, 'READY');
    return id;
  }

  async reaches(id: string, wanted: string): Promise<void> {
    const state = (): string => this.server.systems.get(id).state;
    await until(wanted, () => [wanted, 'FAILED'].includes(state()), bootMs);
    const { fact } = this.server.systems.get(id).evidence;
    assert.equal(state(), wanted, `${fact}\n${await this.server.systems.consoles.tail(id)}`);
  }

  target(id: string): Target {
    const target = this.server.systems.find(id);
    assert.ok(target);
    return target;
  }

  /** The engine and files of a machine; the engine is whatever server there is at present. */
  rigOn(targetId: string): SuiteRig {
    const engine = () => this.server.engine;
    const target = () => this.target(targetId);
    return {
      get engine() {
        return engine();
      },
      submit: async (description) => (await engine().submit({ ownerDn, targetId, description })).id,
      finished: async (id, deadlineMs = jobMs) => {
        await until(
          `job ${id}`,
          async () => (await engine().get(id)).state === 'DONE',
          Math.max(deadlineMs, jobMs),
        );
        return await engine().get(id);
      },
      exists: async (path) => {
        // jobs run at the lowest priority of the machine's only core: who asks too often starves them
        await sleep(500);
        const { identity } = target();
        return (await target().tsi().list(identity, path, 'A')).length > 0;
      },
      read: (path) => text(target().tsi().read(target().identity, path)),
      jobsDirectory: target().jobsDirectory,
      ...{ targetId, ownerDn },
    };
  }
}

// written by machines.test.ts a moment ago
const images = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8')) as TsiImage[];
for (const image of images)
  describe(
    `a machine with the UNICORE TSI ${image.version}, ${image.tls ? 'TLS' : 'plain TCP'}`,
    { timeout: 2_400_000 },
    () => {
      const site = new Site();
      let id = '';
      before(async () => {
        await site.open(image);
        id = await site.create(image.image.metadata.name);
      });
      after(() => site.scope.close());
      describe('runs the end-to-end suite', () =>
        endToEndSuite(() => Promise.resolve(site.rigOn(id)), { patience: 8, jobsAtOnce: 20 }));
      describe('survives', () => survival(site, () => id, image.tls !== undefined));
    },
  );

function survival(site: Site, machine: () => string, tls: boolean): void {
  let rig: SuiteRig;
  before(() => {
    rig = site.rigOn(machine());
  });
  /** A job that notes each time it begins and ends, and ends when it is told. */
  const patient: RawDescription = {
    Executable: 'echo . >> begun; until [ -e go ]; do sleep 0.1; done; echo . >> ended',
  };
  const execute = (script: string) => {
    const target = site.target(machine());
    return target.tsi().execute(target.identity, script);
  };
  const file = (job: string, name: string): string => `${rig.jobsDirectory}/${job}/${name}`;

  async function begin(): Promise<string> {
    await site.reaches(machine(), 'READY'); // a busy host makes it miss a heartbeat now and then
    await until('it is bound', () => isBound(site.target(machine())), jobMs);
    const job = await rig.submit(patient);
    await until('it runs', () => rig.exists(file(job, 'begun')), jobMs);
    return job;
  }

  async function end(job: string): Promise<Job> {
    await execute(`touch ${file(job, 'go')}`);
    const over = await rig.finished(job);
    assert.deepEqual([jobStatus(over), over.run.result?.message], ['SUCCESSFUL', '']);
    for (const name of ['begun', 'ended']) assert.equal(await rig.read(file(job, name)), '.\n');
    return over;
  }

  it('a job array, which it would run once: refused by name', async () => {
    const { arrays } = site.server.systems.get(machine());
    assert.equal(arrays, false);
    const over = await rig.finished(
      await rig.submit({ Executable: 'echo', Resources: { ArraySize: '3' } }),
    );
    assert.equal(jobStatus(over), 'FAILED');
    assert.match(over.run.result?.message ?? '', /Resources\.ArraySize: not offered here/);
    assert.equal(over.run.submittedMs, undefined);
  });

  it('kill -9 of its TSI with all workers, which init starts again: the job runs on', async () => {
    const job = await begin();
    await execute('touch /tmp/kill-tsi');
    await site.reaches(machine(), 'UNREACHABLE');
    await site.reaches(machine(), 'READY');
    await end(job);
  });

  it('a restart of the server', async () => {
    const job = await begin();
    await site.restart();
    await site.reaches(machine(), 'READY');
    await until('it is bound', () => isBound(site.target(machine())), jobMs);
    await end(job);
  });

  if (tls)
    it('somebody who speaks to it without TLS', async () => {
      const job = await begin();
      const [address = ''] = await site.server.hypervisor.addresses('qemu', machine());
      const socket = connect({ host: address, port: 4433 });
      socket.on('error', () => undefined); // the TSI may hang up in the middle
      await once(socket, 'connect');
      const closed = new Promise((resolve) => socket.once('close', resolve));
      socket.end('newtsiprocess 7654\n');
      socket.resume();
      await closed;
      await end(job);
      // it kills UNICORE's main; init starts it again, and new workers come
      const sixWorkers = () => Promise.all(Array.from({ length: 6 }, () => execute('sleep 0.5')));
      const works = (): Promise<boolean> =>
        sixWorkers().then(
          () => true,
          () => false,
        );
      await until('its TSI has new workers', works, bootMs);
    });

  it('a pause, in which it does not answer', async () => {
    const job = await begin();
    const { client } = site.server;
    const dom = await findDomain(site, machine());
    await client.call('domain_suspend', { dom });
    await site.reaches(machine(), 'UNREACHABLE');
    await client.call('domain_resume', { dom });
    await site.reaches(machine(), 'READY');
    await end(job);
  });

  it('not a reboot of the machine: it is FAILED, and so is its job', async () => {
    const job = await begin();
    await execute('touch /tmp/reboot');
    await until('FAILED', () => site.server.systems.get(machine()).state === 'FAILED', jobMs);
    const over = await rig.finished(job);
    assert.equal(jobStatus(over), 'FAILED');
    await site.server.systems.destroy(machine());
    await until('it is gone', () => site.server.systems.list().length === 0, jobMs);
  });
}

function isBound(target: Target): boolean {
  try {
    return !!target.tsi();
  } catch {
    return false;
  }
}

async function findDomain({ server: { client } }: Site, id: string) {
  return (await client.call('domain_lookup_by_uuid', { uuid: id })).dom;
}
