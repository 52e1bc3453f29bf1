import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { waitUntilReady } from '#cli/quickstart/main-job.js';
import { formatDate } from '#kernel/clock.js';
import { asGridError } from '#kernel/errors.js';
import type { HttpClient } from '#kernel/http/client.js';
import { tryAllScript } from '../xnjs/vm/guest-programs.js';
import { eventually, factoryPath, Grid, noMachines, sitePath } from './grid.js';

const signal = AbortSignal.timeout(240_000);

type Site = {
  readonly vm: { readonly cores?: readonly number[] };
  readonly parameters: Record<string, number | string>;
  readonly usage?: Record<string, number>;
};
type Job = {
  readonly status: string;
  readonly exitCode?: number;
  readonly _links: { readonly workingDirectory: { readonly href: string } };
};

describe('resource controls of a real machine', { skip: noMachines }, () => {
  let grid: Grid;
  let user: HttpClient;
  let image: string;
  /** One machine for all of them. */
  let site: string;
  before(async () => {
    grid = await Grid.start({
      prepare: async (each) => {
        await each.set('targetsystem', 'xnjs.targetSystems.usageSeconds', 0.5);
        await each.set('targetsystem', 'xnjs.hypervisor.networks', { user: {}, nat: {} });
        const pinning = { own: '1', others: '0' };
        await each.set('targetsystem', 'xnjs.hypervisor.hosts', [{ name: 'local', pinning }]);
      },
    });
    user = await grid.user();
    image = await grid.publishOwnImage('demo-volumes');
  });
  after(() => grid[Symbol.asyncDispose]());

  it('take memory from a guest that runs and give it back, over a crash of the server', async () => {
    const { headers } = await user.json('POST', factoryPath, {
      image,
      parameters: { cpus: 1, network: 'user', pinned: true },
      volumes: [{ name: 'scratch', sizeMiB: 16 }],
    });
    site = new URL(String(headers['location'])).pathname;
    await waitUntilReady(user, site, signal, () => undefined);
    const shown = async (): Promise<Site> => (await user.json('GET', site)).body as Site;
    const given = (memoryMiB: number) =>
      eventually(`the guest has ${memoryMiB} MiB`, async () => {
        const { usage } = await shown();
        return usage?.['memoryMiB'] === memoryMiB && usage;
      });
    const usage = await given(384);
    assert.ok(usage['cpuSeconds']! > 0 && usage['memoryPeakMiB']! > 50);
    const change = async (parameters: object) =>
      (await user.json('PUT', site, { parameters })).body;

    assert.deepEqual(await change({ memoryMiB: 350, cpuQuotaPercent: 90 }), { parameters: 'OK' });
    await given(350);
    await grid.killServer();
    await grid.startServer();
    await waitUntilReady(user, site, signal, () => undefined);
    const { parameters, vm } = await shown();
    assert.deepEqual(parameters, {
      ...{ cpus: 1, memoryMiB: 350, memoryMaxMiB: 384, cpuQuotaPercent: 90, network: 'user' },
      pinned: true,
    });
    assert.deepEqual(vm.cores, [1]);
    assert.deepEqual(await change({ memoryMiB: 384 }), { parameters: 'OK' });
    const later = await given(384);
    assert.ok(later['cpuSeconds']! >= usage['cpuSeconds']!, 'nothing is forgotten');
  });

  it('give one machine a core that no other gets, whose threads run nowhere else', async () => {
    const ask = { image, parameters: { cpus: 1, pinned: true } };
    await assert.rejects(
      user.json('POST', `${sitePath}/sites`, ask),
      /cores for one machine alone: 1 asked for, 0 of 1 free/,
    );
    const found = ['-o', '-f', `guest=vsite-${site.split('/').at(-1)!}`];
    const pid = execFileSync('pgrep', found, { encoding: 'utf8' }).trim();
    const allowed = readdirSync(`/proc/${pid}/task`).flatMap((task) => {
      const status = readFileSync(`/proc/${pid}/task/${task}/status`, 'utf8');
      const [, name, cores] = /^Name:\s*(.*)$[^]*^Cpus_allowed_list:\s*(\S+)/m.exec(status) ?? [];
      return name?.startsWith('CPU ') ? [cores] : [];
    });
    assert.deepEqual(allowed, ['1']);
  });

  const submit = async (script: string): Promise<string> => {
    const { headers } = await user.json('POST', `${site}/jobs`, { Executable: script });
    return new URL(String(headers['location'])).pathname;
  };
  const finished = (job: string) =>
    eventually('the job is over', async () => {
      const { status, exitCode } = (await user.json('GET', job)).body as Job;
      return (status === 'SUCCESSFUL' || status === 'FAILED') && { status, exitCode };
    });
  const printed = async (script: string): Promise<string> => {
    const job = await submit(script);
    await finished(job);
    const { _links: links } = (await user.json('GET', job)).body as Job;
    const directory = new URL(links.workingDirectory.href).pathname;
    return await text((await user.download(`${directory}/files/stdout`)).body);
  };

  it('leave a guest with QEMU’s own network what libvirt’s namespace has, and not this host', async () => {
    await eventually('it has an address', async () =>
      (await printed('ip -4 -o addr show eth0')).includes(' 10.0.2.15/'),
    );
    const { port } = grid.address;
    const targets = {
      'a service in the namespace': ['10.178.0.1', 53],
      'this server, at the loopback': ['10.0.2.2', port],
      'this server, by its address': ['127.0.0.1', port],
    } as const;
    assert.deepEqual(JSON.parse(await printed(tryAllScript(targets, 3))), {
      'a service in the namespace': 'open',
      'this server, at the loopback': 'ECONNREFUSED',
      'this server, by its address': 'ECONNREFUSED',
    });
  });

  it('bound the processor of a machine whose guest wants all of it', async () => {
    await user.json('PUT', site, { parameters: { cpuQuotaPercent: 25 } });
    const job = await submit('while :; do :; done');
    const used = async (): Promise<readonly [atMs: number, seconds: number]> => {
      const before = (await shownSite()).usage?.['cpuSeconds'];
      return await eventually('a later reading', async () => {
        const seconds = (await shownSite()).usage?.['cpuSeconds'] ?? 0;
        return seconds !== before && ([performance.now(), seconds] as const);
      });
    };
    const [fromMs, from] = await used();
    let [toMs, to] = await used();
    while (toMs - fromMs < 5_000) [toMs, to] = await used();
    const share = ((to - from) * 1_000) / (toMs - fromMs);
    assert.ok(share > 0.02 && share < 0.35, `it used ${share} of a core`);
    await user.json('POST', `${job}/actions/abort`, {});
    await user.json('PUT', site, { parameters: { cpuQuotaPercent: null } });
  });

  it('bound what a guest writes to its disk, reads from it, and how often', async () => {
    const MiB = 1_048_576;
    const [bytes, times] = [2 * MiB, 40];
    // past the guest's own cache, by its own clock
    const script = `cd "$VSITE_VOLUME_scratch" || exit 1
      timed() { read from _ < /proc/uptime; dd "$@" 2> /dev/null || exit 1; read to _ < /proc/uptime; echo "$from $to"; }
      timed if=/dev/zero of=file bs=128k count=16 conv=notrunc oflag=direct
      timed if=file of=/dev/null bs=128k count=16 iflag=direct
      timed if=/dev/zero of=file bs=4096 count=${times} conv=notrunc oflag=direct`;
    const rates = async (parameters: object) => {
      await user.json('PUT', site, { parameters });
      const seconds = (await printed(script))
        .trim()
        .split('\n')
        .map((line) => {
          const [from = NaN, to = NaN] = line.split(' ').map(Number);
          return Math.max(to - from, 0.01); // its clock's least
        });
      const [write = NaN, read = NaN, often = NaN] = seconds;
      return { write: bytes / write, read: bytes / read, often: times / often };
    };
    await rates({}); // the file is there then
    const free = await rates({});
    const isBound = (name: keyof typeof free, rate: number, most: number): void => {
      const figures = `${name}: ${rate} a second, of ${most}; without ${free[name]}`;
      assert.ok(rate < 1.25 * most && free[name] > 2 * most, figures);
    };
    const bandwidth = { diskWriteBytesPerSecond: MiB, diskReadBytesPerSecond: MiB / 2 };
    const slow = await rates(bandwidth);
    isBound('write', slow.write, MiB);
    isBound('read', slow.read, MiB / 2);
    const none = { diskWriteBytesPerSecond: null, diskReadBytesPerSecond: null };
    isBound('often', (await rates({ ...none, diskIops: 20 })).often, 20);
    await user.json('PUT', site, { parameters: { diskIops: null } });
  });

  it('end what wants more memory than its machine has, inside of it', async () => {
    const script = 'node -e "const all=[];for(;;)all.push(Buffer.alloc(16<<20,1))"';
    const { status } = await finished(await submit(script));
    assert.equal(status, 'FAILED');
    assert.equal(await printed('echo well'), 'well\n');
    const { usage } = await shownSite();
    // software emulation keeps what it has translated, up to 1 GiB
    const most = 384 + 1_024;
    assert.ok(usage!['memoryPeakMiB']! < most, `QEMU has had ${usage!['memoryPeakMiB']} MiB`);
  });

  it('end a machine when its life time is over, whatever runs there', async () => {
    await submit('trap "" TERM HUP INT; while :; do sleep 1; done');
    const terminationTime = formatDate(Date.now() + 2_000);
    const { body } = await user.json('PUT', site, { terminationTime });
    assert.deepEqual(body, { terminationTime: 'OK' });
    await eventually('it is gone', async () => (await grid.domains('qemu')).length === 0);
    await eventually(
      'its record too',
      async () =>
        (await user.json('GET', site).then(() => undefined, asGridError))?.details['status'] ===
        404,
    );
  });

  const shownSite = async (): Promise<Site> => (await user.json('GET', site)).body as Site;
});
