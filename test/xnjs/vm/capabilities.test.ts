import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  parseCapabilities,
  parseDomainCapabilities,
  whyUnable,
} from '#xnjs/vm/hosts/capabilities.js';

const host = `<capabilities><host><cpu><arch>x86_64</arch></cpu></host>
  <guest><os_type>hvm</os_type><arch name='x86_64'><wordsize>64</wordsize>
    <machine maxCpus='255'>pc-i440fx-7.2</machine>
    <machine maxCpus='288' canonical='pc-q35-7.2'>q35</machine>
    <domain type='qemu'/><domain type='kvm'/></arch></guest>
  <guest><os_type>hvm</os_type><arch name='aarch64'>
    <machine maxCpus='512' canonical='virt-7.2'>virt</machine><domain type='qemu'/></arch></guest>
  <guest><os_type>exe</os_type><arch name='x86_64'><domain type='lxc'/></arch></guest></capabilities>`;
const domain = `<domainCapabilities><vcpu max='64'/><devices>
  <graphics supported='yes'><enum name='type'><value>vnc</value></enum></graphics>
  <video supported='yes'><enum name='modelType'><value>vga</value></enum></video></devices></domainCapabilities>`;
const needs = { architecture: 'x86_64', cpus: 2, display: false };

describe('what machines a host can run', () => {
  const qemu = parseCapabilities(host, 'qemu');

  it('is told by driver and architecture', () => {
    assert.deepEqual(qemu, {
      x86_64: { machines: ['q35'], maxCpus: 288, display: false, kvm: true },
      aarch64: { machines: ['virt'], maxCpus: 512, display: false, kvm: false },
    });
    assert.deepEqual(Object.keys(parseCapabilities(host, 'kvm')), ['x86_64']);
    const containers = { x86_64: { machines: [], display: false, kvm: false } };
    assert.deepEqual(parseCapabilities(host, 'lxc'), containers);
    assert.deepEqual(parseDomainCapabilities(domain), { maxCpus: 64, display: true });
    assert.deepEqual(parseDomainCapabilities('<domainCapabilities/>'), { display: false });
  });

  const cases = [
    ['qemu', {}, undefined],
    ['lxc', { cpus: 999 }, undefined],
    ['lxc', { architecture: 'aarch64' }, 'architecture: lxc has no aarch64 there, it has x86_64'],
    ['kvm', { architecture: 'aarch64' }, 'architecture: kvm has no aarch64 there, it has x86_64'],
    [
      'qemu',
      { architecture: 'aarch64' },
      'architecture: qemu has no q35 for aarch64 there, which machines are made with',
    ],
    ['qemu', { cpus: 289 }, 'cores: 289 asked for, a machine of qemu has 288 there at most'],
    ['qemu', { display: true }, 'display: qemu there has none'],
  ] as const;
  for (const [driver, wish, reason] of cases)
    it(`${driver}, ${JSON.stringify(wish)}: ${reason ?? 'it can'}`, () => {
      const found = parseCapabilities(host, driver);
      assert.equal(whyUnable(driver, found, { ...needs, ...wish }), reason);
    });
});
