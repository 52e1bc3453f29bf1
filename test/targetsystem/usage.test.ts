import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { GridError } from '#kernel/errors.js';
import { Scope } from '#kernel/scope.js';
import type { UsageSample } from '#xnjs/vm/usage.js';
import { until } from '../xnjs/job/rig.js';
import { idOf, startCompute, type Ask, type Body, type Compute } from './compute-rig.js';

const nothing = {
  ...{ diskReadBytes: 0, diskWrittenBytes: 0 },
  ...{ networkReceivedBytes: 0, networkSentBytes: 0 },
};

describe('what target systems use', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let rig: Compute;
  let alice: Ask;
  let admin: Ask;
  /** A fake: what the hypervisor would tell; test/xnjs/vm/resource-controls.test.ts asks a real one. */
  const samples = new Map<string, UsageSample>();
  before(async () => {
    rig = await startCompute(scope);
    rig.hypervisor.usage = () => Promise.resolve([...samples.values()]);
    [alice, admin] = [rig.as('alice'), rig.as('admin')];
  });
  after(() => scope.close());

  const tell = (id: string, cpuMs: number, more: Partial<UsageSample> = {}): void => {
    const counters = { ...nothing, cpuMs, diskReadBytes: cpuMs * 10 };
    samples.set(id, { id, run: 1, counters, residentMiB: 100, givenMiB: 384, ...more });
  };
  const usageOf = async (id: string): Promise<Body> =>
    ((await alice('GET', `/sites/${id}`)).body['usage'] ?? {}) as Body;
  const used = async (id: string, cpuSeconds: number): Promise<Body> => {
    await until('it is measured', async () => (await usageOf(id))['cpuSeconds'] === cpuSeconds);
    return await usageOf(id);
  };
  const accounts = async (query = ''): Promise<Body[]> =>
    (await admin('GET', `/rest/admin/accounting${query}`)).body['accounting'] as Body[];

  it('adds up over restarts of machine and server, and is kept when they are gone', async () => {
    const id = idOf(await alice('POST', '/sites', { image: 'plain' }));
    await until('it is ready', () => rig.systems.get(id).state === 'READY');
    tell(id, 2_000);
    const first = await used(id, 2);
    assert.deepEqual(
      [first['diskReadBytes'], first['memoryPeakMiB'], first['memoryMiB']],
      [20_000, 100, 384],
    );
    tell(id, 3_000, { residentMiB: 80 });
    assert.equal((await used(id, 3))['memoryPeakMiB'], 100);
    tell(id, 500, { run: 2 });
    assert.equal((await used(id, 3.5))['diskReadBytes'], 35_000);
    tell(id, 4_000, { run: 3 }); // more than before, and yet from the beginning
    await used(id, 7.5);
    tell(id, 1_000, { run: 3 }); // the host has begun to count anew
    await used(id, 8.5);

    rig = await rig.restart();
    [alice, admin] = [rig.as('alice'), rig.as('admin')];
    await used(id, 8.5);
    tell(id, 2_000, { run: 3 });
    await used(id, 9.5);
    const [running] = await accounts();
    assert.deepEqual([running!['targetSystem'], running!['ended']], [id, undefined]);

    await alice('DELETE', `/sites/${id}`);
    await until('it is gone', () => rig.systems.list().length === 0);
    const [account, ...others] = await accounts('?owner=CN=Alice,O=Grid');
    assert.deepEqual(others, []);
    assert.deepEqual(
      [account!['targetSystem'], account!['owner'], account!['image'], account!['cpuSeconds']],
      [id, 'CN=Alice,O=Grid', 'plain:12', 9.5],
    );
    assert.ok(account!['ended']);
    assert.deepEqual(await accounts('?owner=CN=Bob,O=Grid'), []);
    const since = (ms: number): string =>
      encodeURIComponent(`${new Date(ms).toISOString().slice(0, 19)}+0000`);
    assert.equal((await accounts(`?since=${since(Date.now() - 3_600_000)}`)).length, 1);
    assert.deepEqual(await accounts(`?since=${since(Date.now() + 3_600_000)}`), []);
    samples.clear();

    const overview = await admin('POST', '/rest/admin/actions/ShowServerUsageOverview', {});
    const { usage } = (overview.body['results'] as Record<string, Body>)['CN=Alice,O=Grid']!;
    assert.deepEqual(
      [(usage as Body)['cpuSeconds'], (usage as Body)['diskReadBytes']],
      [9.5, 95_000],
    );
  });

  it('is read once more before a machine is taken down, which it never holds up', async (t) => {
    const id = idOf(await alice('POST', '/sites', { image: 'plain' }));
    await until('it is ready', () => rig.systems.get(id).state === 'READY');
    tell(id, 1_000);
    await used(id, 1);
    const silence = new GridError('HYPERVISOR_UNAVAILABLE', 'nobody answers');
    t.mock.method(rig.hypervisor, 'usage', () => Promise.reject(silence));
    await alice('DELETE', `/sites/${id}`);
    await until('it is gone', () => rig.systems.list().length === 0);
    assert.equal((await accounts())[0]!['cpuSeconds'], 1);
    assert.ok((await accounts())[0]!['ended']);
    samples.clear();
  });

  it('is shown to administrators alone, and forgotten in the end', async () => {
    for (const name of ['alice', 'stranger'])
      assert.equal((await rig.as(name)('GET', '/rest/admin/accounting')).status, 403);
    assert.equal((await accounts('?num=1')).length, 1);
    assert.equal((await accounts('?num=1&offset=1')).length, 1);
    assert.equal((await accounts()).length, 2);
    rig.clock.advance(31 * 86_400_000);
    await until('they are forgotten', async () => (await accounts()).length === 0);
  });
});
