import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { deleteAndWait } from '#cli/client/resources.js';
import { createTargetSystem, waitUntilReady } from '#cli/quickstart/main-job.js';
import type { HttpClient } from '#kernel/http/client.js';
import { eventually, Grid, noMachines } from './grid.js';

const signal = AbortSignal.timeout(240_000);

type Site = {
  readonly parameters: Record<string, number>;
  readonly usage?: Record<string, number>;
};

describe('resource controls of a real machine', { skip: noMachines }, () => {
  let grid: Grid;
  let user: HttpClient;
  let image: string;
  before(async () => {
    grid = await Grid.start({
      prepare: (each) => each.set('targetsystem', 'xnjs.targetSystems.usageSeconds', 0.5),
    });
    user = await grid.user();
    image = await grid.publishDemo('vm');
  });
  after(() => grid[Symbol.asyncDispose]());

  it('take memory from a guest that runs and give it back, over a crash of the server', async () => {
    const site = await createTargetSystem(user, image, { cpus: 1 });
    await waitUntilReady(user, site, signal, () => undefined);
    const shown = async (): Promise<Site> => (await user.json('GET', site)).body as Site;
    const given = (memoryMiB: number) =>
      eventually(`the guest has ${memoryMiB} MiB`, async () => {
        const { usage } = await shown();
        return usage?.['memoryMiB'] === memoryMiB && usage;
      });
    const usage = await given(384);
    assert.ok(usage['cpuSeconds']! > 0 && usage['memoryPeakMiB']! > 50);
    const change = async (parameters: object) =>
      (await user.json('PUT', site, { parameters })).body;

    assert.deepEqual(await change({ memoryMiB: 350, cpuQuotaPercent: 90 }), { parameters: 'OK' });
    await given(350);
    await grid.killServer();
    await grid.startServer();
    await waitUntilReady(user, site, signal, () => undefined);
    const { parameters } = await shown();
    assert.deepEqual(parameters, {
      ...{ cpus: 1, memoryMiB: 350, memoryMaxMiB: 384, cpuQuotaPercent: 90 },
    });
    assert.deepEqual(await change({ memoryMiB: 384 }), { parameters: 'OK' });
    const later = await given(384);
    assert.ok(later['cpuSeconds']! >= usage['cpuSeconds']!, 'nothing is forgotten');
    await deleteAndWait(user, site, signal);
  });
});
