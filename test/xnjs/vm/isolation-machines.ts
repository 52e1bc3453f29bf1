// Run by isolation.test.ts in a network namespace of its own: libvirt's networks and rules end with it.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { startLibvirtd } from '#cli/host/libvirtd.js';
import { buildImage, type BuiltImage } from '#cli/image/build.js';
import { projectRoot } from '#kernel/project-root.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import type { NetworkKind } from '#imagerepo/contract.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { until } from '../job/rig.js';
import { tryAllScript } from './guest-programs.js';
import { hostMac } from '#xnjs/vm/network-filter.js';
import { LibvirtNetworks } from '#xnjs/vm/libvirt-networks.js';
import { bootMs, installationId, startServer, type NetworkServer } from './network-server.js';
import { buildSpeaker } from './speaker-image.js';
import { openWorld, world, type World } from './outside-world.js';

const owners = { one: 'CN=One,O=Grid', two: 'CN=Two,O=Grid' } as const;
const networks = { user: {}, nat: { peers: true }, isolated: {}, bridge: { name: 'opbr0' } };
/** The first that are given. */
const natHost = '10.178.0.1';
const natAddresses = { speaker: '10.178.0.2', foreign: '10.178.0.3', own: '10.178.0.4' } as const;

/** Whether the kernel has what libvirt bounds a card's bandwidth by, in both directions. */
function canShape(): boolean {
  const tc = (...args: string[]): number => spawnSync('tc', args, { stdio: 'ignore' }).status ?? 1;
  const police = 'police rate 64kbps burst 64kb drop flowid :1';
  const steps = [
    'qdisc add dev lo root handle 1: htb',
    'class add dev lo parent 1: classid 1:1 htb rate 64kbps',
    'qdisc add dev lo parent 1:1 handle 2: sfq perturb 10',
    'filter add dev lo parent 1: protocol all prio 1 handle 1 fw flowid 1:1',
    'qdisc add dev lo ingress',
    `filter add dev lo parent ffff: protocol all u32 match u32 0 0 ${police}`,
  ];
  const all = steps.map((step) => tc(...step.split(' '))).every((status) => status === 0);
  tc('qdisc', 'del', 'dev', 'lo', 'root');
  tc('qdisc', 'del', 'dev', 'lo', 'ingress');
  return all;
}

/** One that tries these when it has an address, and says so on its console. */
function trying(image: BuiltImage, name: string, tries: readonly string[]): BuiltImage {
  const boot = { commandLine: `vsite.try=${tries.join(',')}` };
  return { ...image, metadata: { ...image.metadata, name, boot } };
}

describe('machines with networks', { timeout: 600_000 }, () => {
  const shared = new Scope();
  let server: NetworkServer;
  let again: () => Promise<void>;
  let outside: World;
  let hostPort: number;
  const ids: Record<string, string> = {};

  before(async () => {
    const directory = mkdtempSync(join(tmpdir(), 'vsite-iso-'));
    shared.defer(() => rmSync(directory, { recursive: true, force: true }));
    outside = await openWorld(shared);
    const listener = createServer((socket) => socket.destroy());
    await new Promise<void>((resolve) => listener.listen(0, '0.0.0.0', resolve));
    shared.defer(() => listener.close());
    hostPort = (listener.address() as AddressInfo).port;
    const cacheDir = join(defaultCacheDirectory(), 'images');
    const probeFolder = join(projectRoot, 'test', 'fixtures', 'images', 'network-probe');
    const [libvirtd, speaker, probe] = await Promise.all([
      startLibvirtd({
        stateDir: join(directory, 'libvirt'),
        cacheDir: join(defaultCacheDirectory(), 'libvirt'),
        log: silentLog,
        sharedNetwork: true,
      }),
      buildSpeaker(directory),
      buildImage(probeFolder, { cacheDir, log: silentLog }),
    ]);
    shared.defer(() => libvirtd.stop());
    const bridged = [
      `${world.bridged}:${world.port}`,
      `${world.hostOnBridge}:${hostPort}`,
      `${natHost}:${hostPort}`,
    ];
    const images = [
      speaker,
      probe,
      trying(probe, 'isolated', [`10.179.0.1:${hostPort}`, `${world.address}:${world.port}`]),
      trying(probe, 'bridged', bridged),
    ];
    const uri = libvirtd.uri('qemu');
    const start = () => startServer(directory, { images, networks, uri });
    server = await start();
    shared.defer(() => server.scope.close());
    again = async () => {
      await server.scope.close();
      server = await start();
    };
    await create('speaker', owners.one, 'vsite-demo', 'nat');
    await create('foreign', owners.two, 'network-probe', 'nat');
    await create('own', owners.one, 'network-probe', 'nat');
  });
  after(() => shared.close());

  async function create(
    name: string,
    ownerDn: string,
    image: string,
    kind: NetworkKind,
  ): Promise<void> {
    const network = { value: kind, field: 'parameters.network' };
    const wish = { ownerDn, image, parameters: { network }, tags: [] };
    const { id } = await server.systems.create(wish);
    ids[name] = id;
  }

  const idOf = (name: string): string => ids[name] ?? '';
  const consoleOf = (name: string): Promise<string> => server.systems.consoles.tail(idOf(name));

  /** What a machine without an agent has said of what it tried. */
  async function findings(name: string): Promise<string[]> {
    let said = '';
    await until(
      `${name} is done`,
      async () => {
        said = await consoleOf(name);
        return said.includes('probe done');
      },
      bootMs,
    );
    return said.split(/\r?\n/).filter((line) => line.startsWith('probe '));
  }

  /** What a job printed. */
  async function run(targetId: string, script: string): Promise<string> {
    const { engine } = server;
    const description = { Executable: script };
    const { id } = await engine.submit({ ownerDn: owners.one, targetId, description });
    await until('the job is over', async () => (await engine.get(id)).state === 'DONE', bootMs);
    const job = await engine.get(id);
    assert.equal(job.run.result?.message, '');
    const target = server.systems.find(targetId);
    assert.ok(target && job.directory);
    return await text(target.tsi().read(target.identity, `${job.directory}stdout`));
  }

  const cardOf = (name: string): string => server.systems.get(idOf(name)).card?.mac ?? '';

  it('reach the world and their owner’s others, and neither the host nor anybody else', async () => {
    const id = idOf('speaker');
    const state = (): string => server.systems.get(id).state;
    await until('READY or FAILED', () => ['READY', 'FAILED'].includes(state()), bootMs);
    assert.equal(state(), 'READY', server.systems.get(id).evidence.fact);
    for (const name of ['foreign', 'own'])
      assert.deepEqual(await findings(name), [
        `probe address ${natAddresses[name as 'own']}`,
        'probe done',
      ]);
    const targets = {
      world: [world.address, world.port],
      "the owner's other": [natAddresses.own, 7],
      "somebody else's": [natAddresses.foreign, 7],
      'the host as gateway': [natHost, hostPort],
      'the host elsewhere': [world.host, hostPort],
      'the host on a bridge': [world.hostOnBridge, hostPort],
      'a metadata service': ['169.254.169.254', 80],
      'a private network': ['192.168.1.1', 80],
      'its own loopback': ['127.0.0.1', hostPort],
    } as const;
    const reached = JSON.parse(await run(id, tryAllScript(targets, 3))) as Record<string, string>;
    // by then the guest's own kernel may have given up asking for that card
    if (reached["somebody else's"] === 'EHOSTUNREACH') reached["somebody else's"] = 'silent';
    assert.deepEqual(reached, {
      world: 'open',
      "the owner's other": 'open',
      "somebody else's": 'silent',
      'the host as gateway': 'silent',
      'the host elsewhere': 'silent',
      'the host on a bridge': 'silent',
      'a metadata service': 'silent',
      'a private network': 'silent',
      'its own loopback': 'ECONNREFUSED',
    });
    assert.deepEqual(await server.systems.addresses(id), [natAddresses.speaker]);
  });

  it('send as nobody else: neither address nor card of another is let through', async () => {
    const id = idOf('speaker');
    const send = (word: string): string =>
      `node -e "const s=require('dgram').createSocket('udp4');` +
      `s.send('${word}',${world.port},'${world.address}',()=>s.close())"`;
    const asRoot = (command: string): string => `echo '${command}; exit' | nc 127.0.0.1 9`;
    // not asked for, which would be the first that is not let through
    const route = `arp -s ${natHost} ${hostMac}; ip route replace default via ${natHost} dev eth0`;
    const become = (address: string): string =>
      `ip addr flush dev eth0; ip addr add ${address}/16 dev eth0; ${route}`;
    const script = [
      send('before'),
      asRoot(become(natAddresses.foreign)),
      send('false-address'),
      asRoot(`${become(natAddresses.speaker)}; ip link set eth0 address 52:00:00:00:00:01`),
      send('false-card'),
      asRoot(`ip link set eth0 address ${cardOf('speaker')}; ${route}`),
      send('after'),
    ];
    await run(id, script.join('\n'));
    // what went before it on the same way has come or never will
    await until('the last word', () => outside.heard.includes('after'), bootMs);
    assert.deepEqual(outside.heard, ['before', 'after']);
  });

  it('have no bandwidth that their host cannot bound: its owner is told, and it is not said to be', async (t) => {
    if (canShape()) {
      t.skip('this host’s kernel can bound it');
      return;
    }
    const id = idOf('speaker');
    for (const name of ['networkInboundBytesPerSecond', 'networkOutboundBytesPerSecond'] as const) {
      const wish = { [name]: { value: 65_536, field: `parameters.${name}` } };
      await assert.rejects(server.systems.changeParameters(id, wish), {
        code: 'HYPERVISOR_FAILED',
        message: /tc /,
      });
      assert.equal(server.systems.get(id).parameters[name], undefined);
    }
  });

  it('of a network of their own have its address, and no way out of it', async () => {
    await create('isolated', owners.one, 'isolated', 'isolated');
    assert.deepEqual(await findings('isolated'), [
      'probe address 10.179.0.2',
      `probe 10.179.0.1:${hostPort} silent`,
      `probe ${world.address}:${world.port} silent`,
      'probe done',
    ]);
  });

  it('on the operator’s bridge reach what is behind it, and not this host', async () => {
    await create('bridged', owners.one, 'bridged', 'bridge');
    const [address, ...tries] = await findings('bridged');
    assert.match(address ?? '', /^probe address 192\.0\.2\.1\d\d$/);
    assert.deepEqual(tries, [
      `probe ${world.bridged}:${world.port} open`,
      `probe ${world.hostOnBridge}:${hostPort} silent`,
      `probe ${natHost}:${hostPort} silent`,
      'probe done',
    ]);
  });

  it('cannot have QEMU’s own network where libvirt shares that of the host', async () => {
    await assert.rejects(create('user', owners.one, 'network-probe', 'user'), {
      code: 'BAD_REQUEST',
      message: /parameters\.network: user cannot be had: libvirtd is in the host's network/,
    });
  });

  it('leave nothing behind, whenever the server is stopped', async () => {
    const names = async (): Promise<string[]> => {
      const networks = new LibvirtNetworks({ qemu: server.client }, installationId);
      return (await networks.listNetworks('qemu')).map(({ name }) => name).sort();
    };
    const nat = 'vsite-nat-11111111';
    assert.deepEqual(await names(), [`vsite-${idOf('isolated')}`, nat].sort());
    for (const id of Object.values(ids)) await server.systems.destroy(id);
    await again();
    await until('all are gone', () => server.systems.list().length === 0, bootMs);
    await until('their networks too', async () => (await names()).length === 1, bootMs);
    const { net } = await server.client.call('network_lookup_by_name', { name: nat });
    const { xml } = await server.client.call('network_get_xml_desc', { net, flags: 0 });
    assert.doesNotMatch(xml, /<host /);
  });
});
