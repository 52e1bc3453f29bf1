import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { GridError } from '#kernel/errors.js';
import { Scope } from '#kernel/scope.js';
import { until } from '../xnjs/job/rig.js';
import { idOf, startCompute, type Ask, type Compute } from './compute-rig.js';

describe('parameters of target systems', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let rig: Compute;
  let alice: Ask;
  before(async () => {
    rig = await startCompute(scope, { limits: { cpuShares: 500, memoryMiB: 2048 } });
    alice = rig.as('alice');
  });
  after(() => scope.close());

  const made = async (parameters: object): Promise<string> =>
    idOf(await alice('POST', '/sites', { image: 'plain', parameters }));
  const shown = async (id: string): Promise<Record<string, unknown>> =>
    (await alice('GET', `/sites/${id}`)).body;
  const change = async (id: string, parameters: unknown): Promise<string> => {
    const answer = await alice('PUT', `/sites/${id}`, { parameters });
    assert.equal(answer.status, 200);
    return String(answer.body['parameters']);
  };
  async function removed(id: string): Promise<void> {
    await alice('DELETE', `/sites/${id}`);
    await until('it is gone', () => rig.systems.list().every((each) => each.id !== id));
  }

  const refused: readonly (readonly [string, object, RegExp])[] = [
    [
      'more than its processors',
      { cpus: 2, cpuQuotaPercent: 300 },
      /^parameters\.cpuQuotaPercent: 300 is outside 1-200, the range/,
    ],
    [
      'more than the site allows',
      { cpuShares: 501 },
      /^parameters\.cpuShares: 501 is outside 2-500, the range/,
    ],
    [
      'a limit for a disk that it does not have',
      { diskIops: 100 },
      /^parameters\.diskIops: its machine has no disk/,
    ],
    [
      'a limit for a network that it does not have',
      { networkInboundBytesPerSecond: '1M' },
      /^parameters\.networkInboundBytesPerSecond: its machine has no network/,
    ],
    [
      'less at most than at once',
      { memoryMiB: 512, memoryMaxMiB: 400 },
      /^parameters\.memoryMaxMiB: 400 MiB is outside 512-2048/,
    ],
    [
      'a hard limit that would kill it',
      { memoryMiB: 512, memoryHardLimitMiB: 600 },
      /^parameters\.memoryHardLimitMiB: 600 is outside 768-/,
    ],
  ];
  for (const [what, parameters, text] of refused)
    it(`are refused with ${what}`, async () => {
      const answer = await alice('POST', '/sites', { image: 'plain', parameters });
      assert.equal(answer.status, 400);
      assert.match(String(answer.body['errorMessage']), text);
      assert.deepEqual(rig.systems.list(), []);
    });

  it('change while the machine runs, all together or none', async (t) => {
    const id = await made({ cpus: 2, memoryMiB: 512, cpuQuotaPercent: '150' });
    const before = { cpus: 2, memoryMiB: 512, cpuShares: 500, cpuQuotaPercent: 150 };
    assert.deepEqual((await shown(id))['parameters'], before);
    const calls = t.mock.method(rig.hypervisor, 'setControls');
    assert.match(
      await change(id, { cpuQuotaPercent: 50, diskIops: 1 }),
      /^Error setting property: parameters\.diskIops: its machine has no disk/,
    );
    const never: readonly (readonly [unknown, RegExp])[] = [
      [{ cpus: 1 }, /parameters\.cpus: cannot change while the machine runs/],
      [{ memoryMiB: 600 }, /parameters\.memoryMiB: 600 MiB is outside 320-512/],
      [{ Runtime: '1h' }, /parameters\.Runtime: is changed by terminationTime/],
      [{ cpuShares: null }, /parameters\.cpuShares: cannot be taken back/],
      [{ memoryMiB: null }, /parameters\.memoryMiB: cannot be taken back/],
      [{ colour: 'red' }, /parameters\.colour: is not known/],
      [{}, /names nothing to change/],
      ['large', /Error setting property/],
    ];
    for (const [parameters, text] of never) assert.match(await change(id, parameters), text);
    assert.deepEqual((await shown(id))['parameters'], before);
    assert.equal(calls.mock.callCount(), 0);

    assert.equal(await change(id, { memoryMiB: 400, cpuQuotaPercent: null }), 'OK');
    const now = { cpus: 2, memoryMiB: 400, memoryMaxMiB: 512, cpuShares: 500 };
    assert.deepEqual((await shown(id))['parameters'], now);
    const [system, names] = calls.mock.calls[0]!.arguments as unknown as [object, string[]];
    assert.deepEqual(names.toSorted(), ['cpuQuotaPercent', 'memoryMiB']);
    assert.deepEqual((system as { parameters: object }).parameters, now);
    // back to its maximum, which was kept
    assert.equal(await change(id, { memoryMiB: 512 }), 'OK');
    await removed(id);
  });

  it('stay as they were where the hypervisor refuses', async (t) => {
    const id = await made({ cpuQuotaPercent: 80 });
    const refusal = new GridError('HYPERVISOR_FAILED', 'no cgroup controller here');
    const mock = t.mock.method(rig.hypervisor, 'setControls', () => Promise.reject(refusal));
    assert.equal(
      await change(id, { cpuQuotaPercent: 40 }),
      'Error setting property: no cgroup controller here',
    );
    const { parameters, vm } = (await shown(id)) as Record<string, Record<string, unknown>>;
    assert.equal(parameters!['cpuQuotaPercent'], 80);
    assert.deepEqual(vm!['unappliedParameters'], ['cpuQuotaPercent'], 'not known to be there');
    mock.mock.restore();
    await removed(id);
  });

  it('are changed later where the hypervisor does not answer, by the next server too', async (t) => {
    const id = await made({ cpuQuotaPercent: 80 });
    await until('it is ready', () => rig.systems.get(id).state === 'READY');
    const silence = new GridError('HYPERVISOR_UNAVAILABLE', 'nobody answers');
    const mock = t.mock.method(rig.hypervisor, 'setControls', () => Promise.reject(silence));
    assert.match(await change(id, { cpuQuotaPercent: 40 }), /^Accepted: .* done later/);
    const waiting = (await shown(id)) as Record<string, Record<string, unknown>>;
    assert.equal(waiting['parameters']!['cpuQuotaPercent'], 40);
    assert.deepEqual(waiting['vm']!['unappliedParameters'], ['cpuQuotaPercent']);
    rig = await rig.restart();
    alice = rig.as('alice');
    mock.mock.restore();
    const again = t.mock.method(rig.hypervisor, 'setControls');
    await until('it is done', () => rig.systems.get(id).unapplied === undefined);
    assert.equal(again.mock.calls[0]!.arguments.length, 2);
    assert.equal(rig.systems.get(id).parameters.cpuQuotaPercent, 40);
    await removed(id);
  });
});
