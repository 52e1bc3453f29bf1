import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { ConnectionChange, LibvirtClient } from '#kernel/libvirt/client.js';
import type { Lifecycle } from '#kernel/libvirt/events.js';
import { aDaemon, testDomain, withoutLibvirtd } from './daemon.js';

const soon = () => AbortSignal.timeout(20_000);
const unavailable = { code: 'HYPERVISOR_UNAVAILABLE' };
const reconnect = { minDelayMs: 20, maxDelayMs: 200 };

describe('a libvirtd that goes away', { skip: withoutLibvirtd }, () => {
  let daemon: Awaited<ReturnType<typeof aDaemon>>;
  before(async () => {
    daemon = await aDaemon();
  });
  after(() => daemon[Symbol.asyncDispose]());

  const define = (client: LibvirtClient, name: string) =>
    client.call('domain_define_xml_flags', { xml: testDomain(name), flags: 0 });

  it('is found again after a kill, and its events too', { timeout: 60_000 }, async () => {
    await using client = await daemon.connect('test', { reconnect });
    const changes: ConnectionChange['state'][] = [];
    const lost = new Promise<void>((resolve) => {
      client.onConnectionChange(({ state }) => {
        changes.push(state);
        if (state === 'down') resolve();
      });
    });
    await daemon.kill();
    await lost;
    await assert.rejects(define(client, 'too-early'), unavailable);
    await daemon.restart();
    await client.ready(soon());
    const heard = new Promise<Lifecycle>((resolve) => void client.onLifecycle(resolve));
    await define(client, 'after');
    assert.deepEqual([(await heard).dom.name, (await heard).event], ['after', 'defined']);
    assert.deepEqual(changes, ['down', 'up']);
  });

  it('is noticed when it hangs, and found again', { timeout: 60_000 }, async () => {
    const keepAlive = { intervalMs: 50, count: 2 };
    await using client = await daemon.connect('test', { reconnect, keepAlive });
    const pid = await daemon.processId();
    const lost = new Promise<ConnectionChange>(
      (resolve) => void client.onConnectionChange(resolve),
    );
    process.kill(pid, 'SIGSTOP');
    try {
      await assert.rejects(client.call('connect_get_type', {}), unavailable);
      assert.equal((await lost).state, 'down');
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await client.ready(soon());
    assert.deepEqual(await client.call('connect_get_type', {}), { type: 'TEST' });
  });

  it('is left alone after the client was closed', async () => {
    const client = await daemon.connect('test', { reconnect });
    const call = client.call('connect_get_type', {});
    const ready = assert.rejects(call, unavailable);
    await Promise.all([client.close(), client.close()]);
    await ready;
    await client.close();
    assert.equal(client.connected, false);
    await assert.rejects(client.call('connect_get_type', {}), unavailable);
    await assert.rejects(client.ready(), unavailable);
  });
});
