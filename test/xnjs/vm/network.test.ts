import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { networkDefinition, type MachineNetwork } from '#xnjs/vm/network.js';
import { buildImage } from '#cli/image/build.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { silentLog } from '#kernel/log.js';
import { projectRoot } from '#kernel/project-root.js';
import { domainXml } from '#xnjs/vm/domain-xml.js';
import { HostNetworks } from '#xnjs/vm/host-networks.js';
import { MachineNetworks } from '#xnjs/vm/machine-networks.js';
import { NetworksConfig } from '#xnjs/vm/network-config.js';
import { noNamespace, runInNamespace } from './namespace.js';
import { aTargetSystem, anImageMetadata } from './samples.js';

const network: MachineNetwork = {
  name: 'vsite',
  serverAddress: '10.177.0.1',
  prefixLength: 24,
  callbackPorts: { first: 7654, last: 7661 },
};
const metadata = anImageMetadata({
  tsi: {
    transport: 'tcp',
    port: 14_433,
    count: 2,
    login: 'grid',
    jobsDirectory: '/home/grid/jobs',
  },
});
const system = aTargetSystem({ image: { id: 'i', parts: {}, metadata } });
const paths = {
  console: '/s/console.log',
  agentSocket: '/s/agent.sock',
  kernel: '/k',
  initrd: '/i',
};
const installation = '11111111-2222-4333-8444-555555555555';

/** Machines with networks of these kinds, and what is made for them, in libvirt's language. */
async function documentsOf(kind: 'user' | 'nat' | 'isolated' | 'bridge') {
  const made: Record<string, string> = {};
  const config = NetworksConfig.parse({
    ...{ user: {}, nat: {}, isolated: {} },
    bridge: { name: 'br0' },
  });
  const host = new HostNetworks({
    ...{ host: 'local', config },
    hypervisor: {
      ensureNetwork: (_driver, { networkXml, filterXml }) => {
        if (networkXml !== undefined) made[`network ${kind}`] = networkXml;
        made[`nwfilter ${kind}`] = filterXml;
        return Promise.resolve();
      },
      ensureHost: () => Promise.resolve(),
      removeHost: () => Promise.resolve(),
      removeNetwork: () => Promise.resolve(),
      listNetworks: () => Promise.resolve([]),
      foreignAddresses: () => Promise.resolve([]),
      hasBridge: () => Promise.resolve(true),
    },
    installationId: installation,
    addresses: () => ['192.0.2.7'],
    whyNoUserNetwork: () => Promise.resolve(undefined),
    log: silentLog,
  });
  const networks = new MachineNetworks({ config, hosts: [host], log: silentLog });
  const parameters = { cpus: 1, memoryMiB: 96, network: kind, networkInboundBytesPerSecond: 1e6 };
  const bare = aTargetSystem({ parameters });
  const card = networks.promise(bare, []);
  assert.ok(card);
  await networks.ensure({ ...bare, card });
  return { ...made, [`domain ${kind}`]: domainXml({ ...bare, card }, paths, installation) };
}

const documents = {
  network: networkDefinition(network).networkXml ?? '',
  nwfilter: networkDefinition(network).filterXml,
  domain: domainXml(system, paths, installation, network),
};
const kinds = await Promise.all((['user', 'nat', 'isolated', 'bridge'] as const).map(documentsOf));
const validator = spawnSync('virt-xml-validate', ['--version']).error
  ? 'virt-xml-validate is not installed'
  : false;

describe('the network of machines', () => {
  for (const [name, xml] of [documents, ...kinds].flatMap((each) => Object.entries<string>(each)))
    it(`is a ${name} by libvirt's schema`, { skip: validator }, () => {
      const directory = mkdtempSync(join(tmpdir(), 'vsite-xml-'));
      try {
        const file = join(directory, 'document.xml');
        writeFileSync(file, xml);
        const [schema = ''] = name.split(' ');
        execFileSync('virt-xml-validate', [file, schema], { stdio: 'pipe' });
      } finally {
        rmSync(directory, { recursive: true });
      }
    });

  const ranges = [
    ['10.177.0.1', 24, '10.177.0.2', '10.177.0.254'],
    ['10.177.0.254', 24, '10.177.0.1', '10.177.0.253'],
    ['10.177.0.1', 16, '10.177.0.2', '10.177.255.254'],
    ['192.168.7.129', 30, '192.168.7.130', '192.168.7.130'],
  ] as const;
  for (const [serverAddress, prefixLength, start, end] of ranges)
    it(`gives machines ${start} to ${end} beside ${serverAddress}/${prefixLength}`, () => {
      const { networkXml } = networkDefinition({ ...network, serverAddress, prefixLength });
      assert.match(networkXml ?? '', new RegExp(`<range start="${start}" end="${end}">`));
    });

  it('has one filter for ever, and a card of its own for each machine', () => {
    assert.equal(networkDefinition(network).filterXml, documents.nwfilter);
    const other = { ...system, id: '6b3f0c1e-8d52-4a94-9a50-0f0e3a1f2b3c' };
    const mac = (xml: string): string => /<mac address="([^"]+)"/.exec(xml)?.[1] ?? '';
    assert.match(mac(documents.domain), /^52(:[0-9a-f]{2}){5}$/);
    assert.notEqual(mac(domainXml(other, paths, installation, network)), mac(documents.domain));
    assert.match(
      documents.domain,
      /<parameter name="MAIN" value="14433"\/><parameter name="LASTMAIN" value="14434"\/>/,
    );
  });

  it('is not given to machines that do not want it', () => {
    const quiet = aTargetSystem();
    assert.doesNotMatch(domainXml(quiet, paths, installation, network), /<interface/);
  });
});

describe('machines in a network namespace', { skip: noNamespace, timeout: 660_000 }, () => {
  it('run jobs over TCP with TLS, and reach nothing but the server', async () => {
    // where packages can still be fetched
    const recipe = join(projectRoot, 'config', 'images', 'demo-network');
    const cacheDir = join(defaultCacheDirectory(), 'images');
    await buildImage(recipe, { cacheDir, log: silentLog });
    await runInNamespace('test/xnjs/vm/network-machines.ts');
  });
});
