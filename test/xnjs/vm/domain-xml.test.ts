import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { domainXml } from '#xnjs/vm/domain-xml.js';
import { aTargetSystem, anImageMetadata } from './samples.js';

const paths = { console: '/s/console.log', agentSocket: '/s/run/agent.sock' };
const kernelPaths = { ...paths, kernel: '/i/vmlinuz', initrd: '/i/initrd' };
const installation = '11111111-2222-4333-8444-555555555555';

const network = {
  name: 'vsite',
  serverAddress: '10.177.0.1',
  prefixLength: 24,
  callbackPorts: { first: 49_000, last: 49_099 },
};

const domains = {
  kernel: domainXml(aTargetSystem(), kernelPaths, installation),
  qcow2: domainXml(
    aTargetSystem({
      image: { id: 'i', parts: {}, metadata: anImageMetadata({ format: 'qcow2' }) },
    }),
    { ...paths, disk: '/s/overlay.qcow2' },
    installation,
  ),
  controlled: domainXml(
    aTargetSystem({
      image: {
        id: 'i',
        parts: {},
        metadata: anImageMetadata({
          format: 'qcow2',
          tsi: { login: 'grid', jobsDirectory: '/j', transport: 'tcp' },
        }),
      },
      parameters: {
        ...{ cpus: 2, memoryMiB: 384, memoryMaxMiB: 512, memoryHardLimitMiB: 1024 },
        ...{ cpuShares: 200, cpuQuotaPercent: 150, diskIops: 100 },
        ...{ diskReadBytesPerSecond: 4_000_000, diskWriteBytesPerSecond: 2_000_000 },
        ...{ networkInboundBytesPerSecond: 1_000_000, networkOutboundBytesPerSecond: 524_288 },
      },
    }),
    { ...paths, disk: '/s/overlay.qcow2' },
    installation,
    network,
  ),
  displayed: domainXml(
    aTargetSystem({
      image: { id: 'i', parts: {}, metadata: anImageMetadata({ display: true }) },
    }),
    { ...kernelPaths, screenSocket: '/s/run/vnc.sock' },
    installation,
  ),
  rootfs: domainXml(
    aTargetSystem({
      driver: 'lxc',
      image: { id: 'i', parts: {}, metadata: anImageMetadata({ format: 'rootfs' }) },
    }),
    { ...paths, root: '/s/root', mounts: { '/run/vsite': '/s/run' } },
    installation,
  ),
};
const validator = spawnSync('virt-xml-validate', ['--version']).error
  ? 'virt-xml-validate is not installed'
  : false;

describe('domain XML', () => {
  for (const [format, xml] of Object.entries(domains))
    it(`of a ${format} image satisfies libvirt's schema`, { skip: validator }, () => {
      const directory = mkdtempSync(join(tmpdir(), 'vsite-xml-'));
      try {
        const file = join(directory, 'domain.xml');
        writeFileSync(file, xml);
        execFileSync('virt-xml-validate', [file, 'domain'], { stdio: 'pipe' });
      } finally {
        rmSync(directory, { recursive: true });
      }
    });

  it('gives the machine what was asked for', () => {
    assert.match(domains.kernel, /<memory unit="MiB">384<\/memory><vcpu>2<\/vcpu>/);
    assert.match(domains.kernel, /<kernel>\/i\/vmlinuz<\/kernel><initrd>\/i\/initrd<\/initrd>/);
  });

  it('spares an emulated machine the questions about its processor, and only that', () => {
    assert.match(domains.kernel, /<qemu:del capability="cpu-unavailable-features"\/>/);
    const kvm = domainXml(aTargetSystem({ driver: 'kvm' }), kernelPaths, installation);
    for (const other of [kvm, domains.rootfs]) assert.doesNotMatch(other, /qemu:/);
  });

  it('keeps markup of an image creator inside the command line', () => {
    const metadata = anImageMetadata({ boot: { commandLine: '</cmdline><devices/>' } });
    const xml = domainXml(
      aTargetSystem({ image: { id: 'i', parts: {}, metadata } }),
      kernelPaths,
      installation,
    );
    assert.match(xml, /&lt;\/cmdline(&gt;|>)&lt;devices\/(&gt;|>)<\/cmdline>/);
  });

  it('gives the machine its resource controls', () => {
    assert.match(domains.controlled, /<memory unit="MiB">512<.*<currentMemory unit="MiB">384</);
    assert.match(
      domains.controlled,
      /<shares>200<.*<global_period>100000<.*<global_quota>150000<.*<hard_limit unit="MiB">1024</,
    );
    assert.match(
      domains.controlled,
      /<read_bytes_sec>4000000<.*<write_bytes_sec>2000000<.*<total_iops_sec>100</,
    );
    assert.match(domains.controlled, /<inbound average="1000"\/><outbound average="524"\/>/);
  });

  it('bounds the cores that a container may use', () => {
    assert.match(domains.rootfs, /<period>100000<\/period><quota>200000<\/quota>/);
  });

  it('gives a container no network of the host', () => {
    assert.match(domains.rootfs, /<privnet\/>/);
    assert.match(domains.rootfs, /<source dir="\/s\/root"\/><target dir="\/"\/><readonly\/>/);
  });
});
