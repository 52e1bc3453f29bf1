import assert from 'node:assert/strict';
import { once } from 'node:events';
import { copyFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { finished } from 'node:stream/promises';
import { after, before, describe, it } from 'node:test';
import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { aDaemon, withoutContainers, withoutLibvirtd } from './daemon.js';

const managedSaveAndSnapshots = 3;
let daemon: Awaited<ReturnType<typeof aDaemon>>;
before(async () => {
  if (!withoutLibvirtd) daemon = await aDaemon();
});
after(() => daemon[Symbol.asyncDispose]());

/** The events of one domain, as texts. */
function listen(client: LibvirtClient, name: string) {
  const heard: string[] = [];
  let told: () => void = () => undefined;
  client.onLifecycle(({ dom, event, detail }) => {
    if (dom.name === name) heard.push(`${event}: ${detail}`);
    told();
  });
  return async (text: string): Promise<void> => {
    while (!heard.includes(text)) await new Promise<void>((resolve) => (told = resolve));
  };
}

const unknown = (client: LibvirtClient) => client.call('domain_lookup_by_name', { name: 'nobody' });

describe("libvirt's QEMU driver", { skip: withoutLibvirtd }, () => {
  let client: LibvirtClient;
  before(async () => {
    client = await daemon.connect('qemu');
  });
  after(() => client.close());

  it('describes itself, lists nothing and knows nobody', { timeout: 60_000 }, async () => {
    assert.deepEqual(await client.call('connect_get_type', {}), { type: 'QEMU' });
    assert.match((await client.call('connect_get_capabilities', {})).capabilities, /x86_64/);
    const domain = {
      emulatorbin: null,
      arch: 'x86_64',
      machine: 'q35',
      virttype: 'qemu',
      flags: 0,
    };
    const { capabilities } = await client.call('connect_get_domain_capabilities', domain);
    assert.match(capabilities, /domainCapabilities/);
    const listing = { need_results: 1, flags: 0 };
    const { domains } = await client.call('connect_list_all_domains', listing);
    assert.deepEqual(domains, []);
    await assert.rejects(unknown(client), { code: 'DOMAIN_UNKNOWN' });
  });

  it('starts a machine and tells when it is gone', { timeout: 60_000 }, async () => {
    const heard = listen(client, 'm1');
    const xml = machine('m1');
    const { dom } = await client.call('domain_define_xml_flags', { xml, flags: 0 });
    await client.call('domain_create_with_flags', { dom, flags: 0 });
    await heard('started: booted');
    const stats = await client.call('connect_get_all_domain_stats', {
      doms: [dom],
      stats: 0,
      flags: 0,
    });
    assert.ok(stats.retStats[0]!.params.length > 5);
    await client.call('domain_destroy_flags', { dom, flags: 0 });
    await heard('stopped: destroyed');
    await client.call('domain_undefine_flags', { dom, flags: managedSaveAndSnapshots });
    await heard('undefined: removed');
  });

  it('opens a channel to a machine, once', { timeout: 60_000 }, async () => {
    const xml = machine(
      'm2',
      `<channel type='unix'><source mode='bind'/><target type='virtio' name='a.b.0'/></channel>`,
    );
    const { dom } = await client.call('domain_create_xml', { xml_desc: xml, flags: 0 });
    const args = { dom, name: 'a.b.0', flags: 0 };
    const channel = await client.openStream('domain_open_channel', args);
    channel.write('nobody reads this yet');
    const second = client.openStream('domain_open_channel', args);
    await assert.rejects(second, { code: 'HYPERVISOR_FAILED' });
    // What was written and not read makes its end a reset
    const ended = assert.rejects(finished(channel.resume()), { code: 'HYPERVISOR_FAILED' });
    await client.call('domain_destroy_flags', { dom, flags: 0 });
    await ended;
    const third = client.openStream('domain_open_channel', args);
    await assert.rejects(third, { code: 'DOMAIN_UNKNOWN' });
  });
});

describe("libvirt's container driver", { skip: withoutContainers }, () => {
  let client: LibvirtClient;
  before(async () => {
    client = await daemon.connect('lxc');
  });
  after(() => client.close());

  it('describes itself, lists nothing and knows nobody', async () => {
    assert.deepEqual(await client.call('connect_get_type', {}), { type: 'LXC' });
    assert.match((await client.call('connect_get_capabilities', {})).capabilities, /libvirt_lxc/);
    const listing = { need_results: 1, flags: 0 };
    const { domains } = await client.call('connect_list_all_domains', listing);
    assert.deepEqual(domains, []);
    await assert.rejects(unknown(client), { code: 'DOMAIN_UNKNOWN' });
  });

  it('says what containers cannot do', async () => {
    await using container = await aContainer(client, 'c1');
    const save = { dom: container.dom, to: '/tmp/never', dxml: null, flags: 0 };
    await assert.rejects(client.call('domain_save_flags', save), (error: Error) => {
      const { code, details } = error as Error & { code: string; details: { libvirtCode: number } };
      return code === 'HYPERVISOR_FAILED' && details.libvirtCode === 3;
    });
  });

  it('opens the console as a stream of both directions', { timeout: 60_000 }, async () => {
    const heard = listen(client, 'c2');
    await using container = await aContainer(client, 'c2');
    await heard('started: booted');
    const { dom } = container;
    const args = { dom, dev_name: null, flags: 0 };
    const console = await client.openStream('domain_open_console', args);
    console.write('echo me\n');
    let text = '';
    for await (const chunk of console) {
      text += String(chunk);
      if (text.split('echo me').length > 2) break; // the terminal's echo, then the program's
    }
    await once(console, 'close').catch(() => undefined);
    assert.ok(console.destroyed);
  });

  it('refuses a stream with the answer of the daemon', async () => {
    const dom = { name: 'nobody', uuid: '00112233-4455-6677-8899-aabbccddeeff', id: 7 };
    const console = client.openStream('domain_open_console', { dom, dev_name: null, flags: 0 });
    await assert.rejects(console, { code: 'DOMAIN_UNKNOWN' });
  });
});

/** A running container whose only process repeats what is typed. */
async function aContainer(client: LibvirtClient, name: string) {
  const root = join(daemon.stateDir, name);
  await mkdir(join(root, 'bin'), { recursive: true });
  await copyFile('/bin/busybox', join(root, 'bin', 'busybox'));
  const xml = `<domain type='lxc'><name>${name}</name><memory unit='MiB'>32</memory>
    <os><type>exe</type><init>/bin/busybox</init><initarg>cat</initarg></os>
    <devices><filesystem type='mount'><source dir='${root}'/><target dir='/'/></filesystem>
      <console type='pty'/></devices></domain>`;
  const { dom } = await client.call('domain_create_xml', { xml_desc: xml, flags: 0 });
  return {
    dom,
    async [Symbol.asyncDispose]() {
      await client.call('domain_destroy_flags', { dom, flags: 0 });
    },
  };
}

/** A machine without any system: its firmware looks for one in vain. */
const machine = (name: string, devices = ''): string =>
  `<domain type='qemu'><name>${name}</name><memory unit='MiB'>32</memory>
    <os><type arch='x86_64' machine='q35'>hvm</type></os>
    <devices><controller type='usb' model='none'/><memballoon model='none'/>${devices}</devices>
  </domain>`;
