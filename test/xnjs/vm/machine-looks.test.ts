import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { GridError } from '#kernel/errors.js';
import { silentLog as log } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { DomainWatch } from '#xnjs/vm/domain-watch.js';
import { oneHost } from '#xnjs/vm/hosts/hosts.js';
import { LibvirtHypervisor } from '#xnjs/vm/libvirt-hypervisor.js';
import { MachineLooks } from '#xnjs/vm/machine-looks.js';
import { step } from '#xnjs/vm/state.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import { FakeLibvirtd } from '../../bench/scale/libvirtd.js';
import { ShiftedClock } from '../../targetsystem/shifted-clock.js';
import { until } from '../job/rig.js';
import { aTargetSystem } from './samples.js';

const installationId = '11111111-2222-4333-8444-555555555555';
/** Of libvirt where nobody has raised it. */
const workers = 20;
const ids = Array.from({ length: 400 }, (_, n) =>
  aTargetSystem().id.replace(/.{12}$/, String(n).padStart(12, '0')),
);

/** On a fake of libvirtd that speaks its protocol: machines that hang keep those who ask them waiting. */
describe('many machines that hang at once', { timeout: 60_000 }, () => {
  const scope = new Scope();
  const clock = new ShiftedClock();
  const records = new Map<string, TargetSystem>();
  let daemon: FakeLibvirtd;
  let hypervisor: LibvirtHypervisor;
  let watch: DomainWatch;
  let started = ids;

  before(async () => {
    const directory = mkdtempSync(join(tmpdir(), 'vsite-looks-'));
    scope.defer(() => rmSync(directory, { recursive: true, force: true }));
    const path = join(directory, 'libvirt.sock');
    const guests = { start: () => Promise.resolve(), stop: () => Promise.resolve() };
    daemon = scope.use(await FakeLibvirtd.listen(path, guests));
    daemon.now = () => clock.now();
    const uri = `qemu+unix:///system?socket=${path}`;
    const [qemu, probe] = [
      scope.use(await LibvirtClient.connect({ uri, log })),
      scope.use(await LibvirtClient.connect({ uri, log, events: [] })),
    ];
    hypervisor = new LibvirtHypervisor({
      ...{ clients: { qemu }, probes: { qemu: probe }, installationId, clock, log },
      lookTimes: { batchMs: 150, oneMs: 100 },
    });
    const evidence = { source: 'agent', fact: 'its agent answers', atMs: 1 } as const;
    for (const id of ids) {
      const xml = `<domain><name>vsite-${id}</name><uuid>${id}</uuid></domain>`;
      await hypervisor.start('qemu', id, xml);
      records.set(id, step(aTargetSystem({ id }), { type: 'agentUp', evidence, boot: {} }));
    }
    watch = new DomainWatch({
      hosts: oneHost(hypervisor, log),
      records: {
        all: () => records.values(),
        find: (id) => records.get(id),
        apply: (id, event) => {
          records.set(id, step(records.get(id)!, event));
          return Promise.resolve();
        },
      },
      started: () => started,
      onStopped: (id) => assert.fail(`${id} has not stopped`),
      intervalMs: 100,
      ...{ clock, log, stopping: new AbortController().signal },
    });
    await looks(4);
    assert.deepEqual(those('running').length, ids.length);
  });
  after(() => scope.close());

  /** So many, each two seconds after the one before has ended. */
  async function looks(times: number): Promise<void> {
    for (let n = 0; n < times; n++) {
      clock.advance(2_000);
      await watch.look({ host: 'local', driver: 'qemu' });
    }
  }
  const those = (says: string): string[] =>
    started.filter((id) => records.get(id)?.views?.hypervisor?.says === says);
  /** @returns seconds, at least */
  async function found(hung: readonly string[]): Promise<number> {
    daemon.hang(hung);
    for (let n = 1; n <= 12; n++) {
      await looks(1);
      // agents that are not heard for ten seconds are silent
      if (n === 5) for (const id of hung) hear(id, 'agentDown');
      if (those('hung').length === hung.length) return 2 * n;
    }
    return Infinity;
  }
  function hear(id: string, type: 'agentUp' | 'agentDown'): void {
    const evidence = { source: 'agent', fact: type, atMs: clock.now() } as const;
    records.set(id, step(records.get(id)!, { type, evidence, boot: {} }));
  }
  async function goOn(hung: readonly string[]): Promise<void> {
    daemon.goOn(hung);
    for (const id of hung) hear(id, 'agentUp');
    await until('nothing is stuck', () => daemon.stuck === 0);
    await looks(3);
    assert.equal(those('running').length, ids.length);
  }

  it('are found where each batch has one, which holds up none of the others', async () => {
    const hung = ids.filter((_, n) => n % 40 === 17);
    assert.ok((await found(hung)) <= 8);
    assert.deepEqual(those('hung'), hung);
    assert.equal(daemon.stuck, hung.length, 'one call for each');
    await goOn(hung);
  });

  it('are found where a hundred are beside each other; the daemon keeps workers for others', async () => {
    const hung = ids.slice(30, 130);
    const calls = daemon.calls.get('connect_get_all_domain_stats') ?? 0;
    const seconds = await found(hung);
    assert.ok(seconds <= 20, `${seconds} s`);
    assert.deepEqual(those('hung'), hung);
    assert.ok(daemon.stuck <= workers - 8, `${daemon.stuck} calls are stuck`);
    const asked = (daemon.calls.get('connect_get_all_domain_stats') ?? 0) - calls;
    assert.ok(asked < 500, `${asked} calls`);
    assert.equal((await hypervisor.find('qemu', hung[50]!))?.state, 'running');
    const asks = hung.map((id) => records.get(id)?.views?.hypervisor?.fact ?? '');
    assert.ok(asks.filter((fact) => fact.endsWith('it hangs')).length >= 8);
    assert.ok(asks.every((fact) => /it hangs$|it was not asked whether it does$/.test(fact)));
    const last = hung.at(-1)!;
    assert.match(records.get(last)?.views?.hypervisor?.fact ?? '', /it was not asked/);
    daemon.goOn([last]);
    hear(last, 'agentUp');
    await looks(1);
    assert.deepEqual(those('hung'), hung.slice(0, -1), 'the others still do');
    await goOn(hung.slice(0, -1));
  });

  it('and have ended keep nobody from finding those that hang later', async () => {
    const hung = ids.slice(0, 20);
    await found(hung);
    daemon.goOn(hung.slice(12));
    const [ended, others] = [hung.slice(0, 12), ids.slice(12)];
    for (const id of ended) await hypervisor.remove('qemu', id);
    started = others;
    for (const id of hung.slice(12)) hear(id, 'agentUp');
    await until('nothing is stuck', () => daemon.stuck === 0);
    await looks(3);
    const late = others.slice(-1);
    assert.ok((await found(late)) <= 8);
    assert.match(records.get(late[0]!)?.views?.hypervisor?.fact ?? '', /it hangs$/);
  });
});

it('a host that goes away in the middle of a look leaves no call that counts as stuck', async () => {
  const procedure = 'connect_get_all_domain_stats';
  const late = new GridError('HYPERVISOR_UNAVAILABLE', 'late', { procedure, timeoutMs: 1 });
  const away = new GridError('HYPERVISOR_UNAVAILABLE', 'not connected');
  const looks = new MachineLooks({
    call: () => Promise.reject(late),
    callApart: () => Promise.reject(away),
    renew: () => Promise.reject(away),
  });
  for (let n = 0; n < workers; n++)
    await assert.rejects(looks.look([{ name: '', uuid: ids[0]!, id: -1 }]), away);
  assert.equal(looks.isFull, false);
});
