import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { buildImage } from '#cli/image/build.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { publish } from '#cli/quickstart/main-job.js';
import type { HttpClient } from '#kernel/http/client.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { inProject } from '../program.js';
import { eventually, factoryPath, Grid, noMachines } from './grid.js';
import { address, outside, startShapingHost } from './shaping-host.js';

const skip = process.env['VSITE_BANDWIDTH']
  ? noMachines
  : 'takes minutes under emulation in emulation: set VSITE_BANDWIDTH=1';
/** Emulated in emulation a card does some 40,000 bytes a second without a limit. */
const limit = 8_000;
const bytes = 65_536;
const stepMs = 600_000;

type Direction = 'inbound' | 'outbound';

describe('the bandwidth of a card', { skip, timeout: 1_800_000 }, () => {
  const scope = new Scope();
  let grid: Grid;
  let user: HttpClient;
  let image: string;
  before(async () => {
    const directory = await mkdtemp(join(tmpdir(), 'vsite-shaping-'));
    scope.defer(() => rm(directory, { recursive: true }));
    const uri = await startShapingHost(directory, scope);
    grid = scope.use(await Grid.start({ prepare: (made) => useHost(made, uri) }));
    user = await grid.user();
    image = await publishProbe(await grid.creator(), await openEnds(scope));
  });
  after(() => scope.close());

  it('is what its owner asked for, in each direction, and changes while the machine runs', async (test) => {
    const begunMs = performance.now();
    const parameters = { network: 'nat', networkInboundBytesPerSecond: limit };
    const { headers } = await user.json('POST', factoryPath, { image, parameters });
    const site = new URL(String(headers['location'])).pathname;
    const change = async (wish: object): Promise<void> => {
      const { body } = await user.json('PUT', site, { parameters: wish });
      assert.deepEqual(body, { parameters: 'OK' });
    };
    /** Bytes a second by the guest's clock, oldest first. */
    const measured = async (direction: Direction): Promise<number[]> => {
      const { vm } = (await user.json('GET', site)).body as { vm: { state: string } };
      assert.equal(vm.state, 'INITIALIZING', 'there is no agent in it');
      const headers = { accept: 'text/plain' };
      const said = await text((await user.download(`${site}/console`, { headers })).body);
      const line = new RegExp(`^probe ${direction} ${bytes} bytes in (\\d+) cs`, 'gm');
      return [...said.matchAll(line)].map(([, time]) => Math.round((100 * bytes) / Number(time)));
    };
    /** Of what has begun since now. */
    const rates = async (what: string) => {
      const old = { inbound: await measured('inbound'), outbound: await measured('outbound') };
      const next = (direction: Direction): Promise<number> =>
        eventually(
          `${direction} is measured`,
          async () => (await measured(direction))[old[direction].length + 1],
          stepMs,
        );
      const found = { inbound: await next('inbound'), outbound: await next('outbound') };
      test.diagnostic(`${what}: ${JSON.stringify(found)}`);
      return found;
    };
    const isBound = (rate: number, most: number): void =>
      assert.ok(rate < 1.25 * most && rate > most / 4, `${rate} bytes a second, of ${most}`);
    const isFree = (rate: number): void =>
      assert.ok(rate > 2 * limit, `${rate} bytes a second without a limit`);

    const first = await rates('inbound from the start');
    test.diagnostic(`${Math.round((performance.now() - begunMs) / 1_000)} s after the wish`);
    isBound(first.inbound, limit);
    isFree(first.outbound);

    await change({ networkInboundBytesPerSecond: null, networkOutboundBytesPerSecond: limit });
    const second = await rates('outbound');
    isFree(second.inbound);
    isBound(second.outbound, limit);

    await change({ networkOutboundBytesPerSecond: null });
    const neither = await rates('neither');
    isFree(neither.inbound);
    isFree(neither.outbound);
  });
});

async function useHost(grid: Grid, uri: string): Promise<void> {
  const set = (name: string, value: unknown) => grid.set('targetsystem', `xnjs.${name}`, value);
  // nothing in the machine answers: it is measured while it is waited for
  await set('targetSystems.bootTimeoutSeconds', 1_800);
  // what the machine sees of this host is a private address
  await set('hypervisor.networks', { nat: { deny: ['127.0.0.0/8', '169.254.0.0/16'] } });
  const storage = { pool: 'vsite', imagesMiB: 512 };
  await set('hypervisor.hosts', [
    { name: 'local', drain: true },
    { name: 'north', uri, addresses: [address], images: 'copied', storage },
  ]);
}

/** Where the machine gets as many bytes as it asks for, and where it is told when all it has sent has come. */
async function openEnds(scope: Scope): Promise<{ source: number; sink: number }> {
  const listen = async (serve: (socket: Socket) => void): Promise<number> => {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on('error', () => socket.destroy()); // the machine has been ended
      serve(socket);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    scope.defer(() => server.close());
    return (server.address() as AddressInfo).port;
  };
  const source = await listen((socket) =>
    socket.once('data', (asked: Buffer) => socket.end(Buffer.alloc(Number(asked)))),
  );
  const sink = await listen((socket) => socket.resume().on('end', () => socket.end()));
  return { source, sink };
}

async function publishProbe(
  creator: HttpClient,
  { source, sink }: { readonly source: number; readonly sink: number },
): Promise<string> {
  const cacheDir = join(defaultCacheDirectory(), 'images');
  const folder = inProject('test/fixtures/images/network-probe');
  const built = await buildImage(folder, { cacheDir, log: silentLog });
  const boot = { commandLine: `vsite.measure=${outside}:${source}:${sink}:${bytes}` };
  return await publish(creator, { ...built, metadata: { ...built.metadata, boot } });
}
