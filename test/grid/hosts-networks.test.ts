import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import type { NetworkKind } from '#imagerepo/contract.js';
import { hostMac } from '#xnjs/vm/network-filter.js';
import { startTwoHosts } from '../faults/two-hosts.js';
import { until } from '../xnjs/job/rig.js';
import { tryAllScript } from '../xnjs/vm/guest-programs.js';
import { noNamespace } from '../xnjs/vm/namespace.js';
import { bootMs, ownerDn, startServer, type NetworkServer } from '../xnjs/vm/network-server.js';
import { openWorld, world, type World } from '../xnjs/vm/outside-world.js';
import { buildSpeaker } from '../xnjs/vm/speaker-image.js';
import { noMachines } from './grid.js';

const networks = {
  ...{ user: {}, isolated: {}, bridge: { name: 'opbr0' } },
  // what else is silent is so since it is an address of a host
  nat: { deny: ['127.0.0.0/8', '169.254.0.0/16'] },
};
const listener = `require('net').createServer((s) => s.destroy())
  .listen(7001, '0.0.0.0', () => console.log('ready'));`;

describe('networks on another host', { skip: noMachines || noNamespace, timeout: 600_000 }, () => {
  const shared = new Scope();
  let hosts: Awaited<ReturnType<typeof startTwoHosts>>;
  let outside: World;
  let server: NetworkServer;
  let start: () => Promise<NetworkServer>;
  let serverPort: number;
  /** Of target systems. */
  let [speaker, isolated] = ['', ''];

  before(async () => {
    const directory = mkdtempSync(join(tmpdir(), 'vsite-hn-'));
    shared.defer(() => rmSync(directory, { recursive: true, force: true }));
    const [image, started] = await Promise.all([
      buildSpeaker(directory),
      startTwoHosts(directory, shared),
    ]);
    hosts = started;
    outside = await openWorld(shared, hosts.libvirtd());
    const args = ['-t', String(hosts.libvirtd()), '-n', process.execPath, '-e', listener];
    const there = spawn('nsenter', args, { stdio: ['ignore', 'pipe', 'inherit'] });
    shared.defer(() => void there.kill('SIGKILL'));
    await once(there.stdout, 'data');
    const here = createServer((socket) => socket.destroy());
    await new Promise<void>((resolve) => here.listen(0, '0.0.0.0', resolve));
    shared.defer(() => here.close());
    serverPort = (here.address() as AddressInfo).port;
    start = () =>
      startServer(directory, {
        ...{ images: [image], uri: hosts.local, networks },
        others: [
          { name: 'local', labels: ['near'] },
          {
            ...{ name: 'north', uri: hosts.north, images: 'shared', labels: ['far'] },
            addresses: [world.host, world.hostOnBridge],
          },
        ],
        systems: { compareMs: 1_000, limits: { cpus: 1, memoryMiB: 512, perUser: 4 } },
      });
    server = await start();
    shared.defer(() => server.scope.close());
  });
  after(() => shared.close());

  const wish = (kind: NetworkKind, label?: string) => {
    const network = { value: kind, field: 'parameters.network' };
    const hostLabels = label !== undefined && {
      hostLabels: { labels: [label], field: 'hostLabels' },
    };
    return { ownerDn, image: 'vsite-demo', parameters: { network }, tags: [], ...hostLabels };
  };
  const stateOf = (id: string): string => server.systems.get(id).state;
  const ready = (id: string): Promise<void> =>
    until('READY', () => stateOf(id) === 'READY', bootMs);

  async function run(targetId: string, script: string): Promise<string> {
    const { engine, systems } = server;
    const description = { Executable: script };
    const { id } = await engine.submit({ ownerDn, targetId, description });
    await until('the job is over', async () => (await engine.get(id)).state === 'DONE', bootMs);
    const job = await engine.get(id);
    assert.equal(job.run.result?.message, '');
    const target = systems.find(targetId)!;
    return await text(target.tsi().read(target.identity, `${job.directory!}stdout`));
  }
  const networksThere = (): string[] =>
    hosts.virsh('net-list', '--name').split('\n').filter(Boolean).sort();

  const entriesThere = (): string => hosts.virsh('net-dumpxml', 'vsite-nat-11111111');
  const ownAddress = "ip -4 -o addr show eth0 | sed 's/.*inet //; s,/.*,,'";

  it('are told of by host and kind, with why some cannot be had', async () => {
    const list = () => server.systems.places.list();
    await until(
      'all are known',
      () =>
        list().every(
          ({ networkProblems }) =>
            !Object.values(networkProblems).some((why) => why.includes('not known yet')),
        ),
      60_000,
    );
    const [local, north] = list();
    assert.deepEqual(local?.abilities.networks, ['user', 'nat', 'isolated']);
    assert.deepEqual(local.networkProblems, { bridge: 'there is no bridge opbr0' });
    assert.deepEqual(north?.abilities.networks, ['nat', 'isolated', 'bridge']);
    assert.match(north.networkProblems.user ?? '', /on another host/);
    const { planner } = server.systems;
    assert.equal((await planner.estimate(wish('bridge'))).host, 'north');
    await assert.rejects(planner.estimate(wish('bridge', 'near')), {
      code: 'LIMIT_REACHED',
      message: /local: its networks: bridge: there is no bridge opbr0/,
    });
    await assert.rejects(planner.estimate(wish('user', 'far')), { code: 'LIMIT_REACHED' });
  });

  it('lead to the world, and to no address of that host or the server’s', async () => {
    speaker = (await server.systems.create(wish('nat', 'far'))).id;
    await ready(speaker);
    assert.equal(server.systems.get(speaker).host, 'north');
    assert.deepEqual(await server.systems.addresses(speaker), ['10.178.0.2']);
    const targets = {
      world: [world.address, world.port],
      'the host as gateway': ['10.178.0.1', 7001],
      'the host elsewhere': [world.host, 7001],
      'the host on a bridge': [world.hostOnBridge, 7001],
      'the host where it is managed': [hosts.addresses.there, 7001],
      'the server’s host': [hosts.addresses.here, serverPort],
      'a metadata service': ['169.254.169.254', 80],
    } as const;
    const reached = JSON.parse(await run(speaker, tryAllScript(targets, 1))) as object;
    const silent = Object.keys(targets).map((name) => [name, 'silent'] as const);
    assert.deepEqual(reached, { ...Object.fromEntries(silent), world: 'open' });
  });

  it('carry nothing that is sent by a false address or card', async () => {
    const send = (word: string): string =>
      `bash -c 'printf ${word} > /dev/udp/${world.address}/${world.port}'`;
    const asRoot = (command: string): string => `echo '${command}; exit' | nc 127.0.0.1 9`;
    const route = `arp -s 10.178.0.1 ${hostMac}; ip route replace default via 10.178.0.1 dev eth0`;
    const become = (address: string): string =>
      `ip addr flush dev eth0; ip addr add ${address}/16 dev eth0; ${route}`;
    const { mac } = server.systems.get(speaker).card!;
    const script = [
      send('before'),
      asRoot(become('10.178.0.9')),
      send('false-address'),
      asRoot(`${become('10.178.0.2')}; ip link set eth0 address 52:00:00:00:00:01`),
      send('false-card'),
      asRoot(`ip link set eth0 address ${mac}; ${route}`),
      send('after'),
    ];
    await run(speaker, script.join('\n'));
    await until('the last word', () => outside.heard.includes('after'), bootMs);
    assert.deepEqual(outside.heard, ['before', 'after']);
  });

  it('are made once, where host and server are lost while one is made', async () => {
    // by no label, which it would keep to
    await server.systems.places.drain('local', true);
    process.kill(hosts.libvirtd(), 'SIGSTOP');
    try {
      isolated = (await server.systems.create(wish('isolated'))).id;
      assert.equal(server.systems.get(isolated).host, 'north');
      // what was asked of it meanwhile is done without anybody who waits for it
      await server.scope.close();
    } finally {
      process.kill(hosts.libvirtd(), 'SIGCONT');
    }
    server = await start();
    await server.systems.places.drain('local', false);
    await ready(isolated);
    assert.equal(server.systems.get(isolated).generation, undefined);
    assert.deepEqual(networksThere(), [`vsite-${isolated}`, 'vsite-nat-11111111'].sort());
    assert.equal(await run(isolated, ownAddress), '10.179.0.2\n');
    const targets = {
      world: [world.address, world.port],
      'the host': ['10.179.0.1', 7001],
      itself: ['127.0.0.1', 7001],
    } as const;
    const reached = JSON.parse(await run(isolated, tryAllScript(targets, 1))) as object;
    assert.deepEqual(reached, {
      world: 'ENETUNREACH',
      'the host': 'silent',
      itself: 'ECONNREFUSED',
    });
  });

  it('are gone with what is parked, and made where that goes on, with the same address', async () => {
    const { parking } = server.systems;
    await parking.freeze(isolated);
    await until('it is parked', () => stateOf(isolated) === 'SUSPENDED', bootMs);
    assert.deepEqual(networksThere(), ['vsite-nat-11111111']);
    hosts.pull();
    try {
      await until('it is silent', () => stateOf(speaker) === 'UNREACHABLE', 60_000);
      await parking.thaw(isolated);
      await ready(isolated);
      assert.equal(server.systems.get(isolated).host, 'local');
      assert.equal(await run(isolated, ownAddress), '10.179.0.2\n');
      await server.systems.destroy(speaker);
      await server.systems.destroy(isolated);
      await until('one is gone', () => server.systems.list().length === 1, bootMs);
      assert.match(entriesThere(), /<host .*10\.178\.0\.2/, 'silence is no proof');
    } finally {
      hosts.plug();
    }
    await until('all are gone', () => server.systems.list().length === 0, bootMs);
    assert.doesNotMatch(entriesThere(), /<host /);
  });
});
