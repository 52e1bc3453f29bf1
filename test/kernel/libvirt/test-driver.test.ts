import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { domainStates } from '#kernel/libvirt/events.js';
import { aDaemon, testDomain, withoutLibvirtd } from './daemon.js';

const metadataElement = 2;

describe("libvirt's test driver", { skip: withoutLibvirtd }, () => {
  let daemon: Awaited<ReturnType<typeof aDaemon>>;
  let client: LibvirtClient;
  before(async () => {
    daemon = await aDaemon();
    client = await daemon.connect('test');
  });
  after(async () => {
    await client.close();
    await daemon[Symbol.asyncDispose]();
  });

  const stateOf = async (name: string): Promise<string | undefined> => {
    const { dom } = await client.call('domain_lookup_by_name', { name });
    const { state } = await client.call('domain_get_state', { dom, flags: 0 });
    return domainStates[state];
  };
  const define = (name: string) =>
    client.call('domain_define_xml_flags', { xml: testDomain(name), flags: 0 });

  it('leads a domain through its life, and tells of it', async () => {
    const heard: string[] = [];
    const stop = client.onLifecycle(({ dom, event, detail }) => {
      if (dom.name === 'life') heard.push(`${event}: ${detail}`);
    });
    const { dom } = await define('life');
    assert.deepEqual([dom.name, dom.id], ['life', -1]);
    assert.match(dom.uuid, /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
    const started = await client.call('domain_create_with_flags', { dom, flags: 0 });
    assert.ok(started.dom.id > 0);
    assert.equal(await stateOf('life'), 'running');
    await client.call('domain_suspend', { dom });
    assert.equal(await stateOf('life'), 'paused');
    await client.call('domain_resume', { dom });
    await client.call('domain_destroy_flags', { dom, flags: 0 });
    assert.equal(await stateOf('life'), 'shutoff');
    await client.call('domain_undefine_flags', { dom, flags: 0 });
    await client.call('connect_get_type', {}); // events come in order with answers
    stop();
    assert.deepEqual(heard, [
      'defined: added',
      'started: booted',
      'suspended: paused',
      'resumed: unpaused',
      'stopped: destroyed',
      'undefined: removed',
    ]);
    const gone = client.call('domain_lookup_by_uuid', { uuid: dom.uuid });
    await assert.rejects(gone, { code: 'DOMAIN_UNKNOWN' });
  });

  it('keeps metadata', async () => {
    const { dom } = await define('metadata');
    const uri = 'urn:vsite:test';
    const [type, flags, metadata] = [metadataElement, 0, "<owner name='Ada'/>"];
    await client.call('domain_set_metadata', { dom, type, metadata, key: 'v', uri, flags });
    const read = await client.call('domain_get_metadata', { dom, type, uri, flags });
    assert.match(read.metadata, /<owner name=['"]Ada['"]\/>/);
    const { xml } = await client.call('domain_get_xml_desc', { dom, flags: 0 });
    assert.match(xml, /urn:vsite:test/);
  });

  it('lists domains, with their figures', async () => {
    const { dom } = await define('listed');
    const { domains, ret } = await client.call('connect_list_all_domains', {
      need_results: 1,
      flags: 0,
    });
    assert.equal(domains.length, ret);
    assert.ok(domains.some(({ uuid }) => uuid === dom.uuid));
    const info = await client.call('domain_get_info', { dom });
    assert.deepEqual([info.maxMem, info.nrVirtCpu], [8192n, 1]);
    const { retStats } = await client.call('connect_get_all_domain_stats', {
      doms: [dom],
      stats: 0,
      flags: 0,
    });
    const state = retStats[0]!.params.find(({ field }) => field === 'state.state');
    assert.deepEqual(state?.value, { type: 1, value: domainStates.indexOf('shutoff') });
  });

  it('takes snapshots and saves', async () => {
    const { dom } = await define('snapshot');
    const xml_desc = '<domainsnapshot><name>s1</name></domainsnapshot>';
    const { snap } = await client.call('domain_snapshot_create_xml', { dom, xml_desc, flags: 0 });
    assert.deepEqual([snap.name, snap.dom.uuid], ['s1', dom.uuid]);
    const args = { dom, need_results: 1, flags: 0 };
    const { snapshots } = await client.call('domain_list_all_snapshots', args);
    assert.deepEqual(snapshots, [snap]);
    await client.call('domain_revert_to_snapshot', { snap, flags: 0 });
    await client.call('domain_snapshot_delete', { snap, flags: 0 });
    await client.call('domain_create_with_flags', { dom, flags: 0 });
    await client.call('domain_managed_save', { dom, flags: 0 });
    const { result } = await client.call('domain_has_managed_save_image', { dom, flags: 0 });
    assert.equal(result, 1);
  });

  it('describes the node', async () => {
    const node = await client.call('node_get_info', {});
    assert.deepEqual([node.model, node.memory, node.cpus], ['i686', 3_145_728n, 16]);
    assert.match(
      (await client.call('connect_get_capabilities', {})).capabilities,
      /<capabilities>/,
    );
    assert.ok((await client.call('connect_get_lib_version', {})).lib_ver > 1_000_000n);
    assert.notEqual((await client.call('connect_get_hostname', {})).hostname, '');
  });

  it('refuses with codes that tell the cases apart', async () => {
    const unknown = client.call('domain_lookup_by_name', { name: 'nobody' });
    await assert.rejects(unknown, (error: Error & { code: string; details: object }) => {
      const { code, details } = error;
      assert.equal(code, 'DOMAIN_UNKNOWN');
      assert.deepEqual(details, {
        procedure: 'domain_lookup_by_name',
        libvirtCode: 42,
        libvirtDomain: 12,
        libvirtLevel: 2,
      });
      return true;
    });
    const broken = client.call('domain_define_xml_flags', { xml: '<domain', flags: 0 });
    await assert.rejects(broken, { code: 'HYPERVISOR_FAILED' });
  });

  it('answers many calls at once', async () => {
    const calls = Array.from({ length: 200 }, () => client.call('connect_get_type', {}));
    for (const { type } of await Promise.all(calls)) assert.equal(type, 'TEST');
  });
});
