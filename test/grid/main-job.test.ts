import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { deleteAndWait } from '#cli/client/resources.js';
import {
  createTargetSystem,
  findImage,
  readTimeline,
  runJob,
  waitUntilReady,
} from '#cli/quickstart/main-job.js';
import type { HttpClient } from '#kernel/http/client.js';
import { exists, Grid, noContainers, noMachines, sitePath } from './grid.js';

const signal = AbortSignal.timeout(600_000);

describe('the main job', { skip: noMachines }, () => {
  let grid: Grid;
  let user: HttpClient;
  before(async () => {
    grid = await Grid.start();
    await grid.publishDemo('vm');
    if (!noContainers) await grid.publishDemo('container');
    user = await grid.user();
  });
  after(async () => grid[Symbol.asyncDispose]());

  const kinds = [
    { format: 'kernel', driver: 'qemu', skip: noMachines },
    { format: 'rootfs', driver: 'lxc', skip: noContainers },
  ] as const;
  for (const { format, driver, skip } of kinds)
    it(
      `runs in a target system from a ${format} image, which leaves nothing behind`,
      { skip },
      async () => {
        const image = await findImage(user, 'Transform', format);
        const site = await createTargetSystem(user, image.id, { cpus: 1 });
        await waitUntilReady(user, site, signal, () => undefined);
        const boot = await readTimeline(user, site, signal);
        const job = await runJob(user, site, 'Transform', 'some words\n', signal);
        assert.match(
          job.stdout,
          /^kernel: Linux .*\nsystem: Debian GNU\/Linux 12.*\ncores: +\d+\nSOME WORDS\n$/,
        );
        assert.equal(job.exitCode, '0');
        const marks = [
          boot.definedMs,
          boot.startedMs,
          boot.userSpaceMs,
          boot.agentMs,
          boot.readyMs,
        ];
        assert.deepEqual(
          marks,
          marks.toSorted((a, b) => a! - b!),
          'marks come in their order',
        );
        assert.equal((await grid.domains(driver)).length, 1);

        await deleteAndWait(user, site, signal);
        assert.deepEqual(await grid.domains(driver), []);
        assert.deepEqual(await grid.machineDirectories(), []);
        const { body } = await user.json('GET', `${sitePath}/sites`);
        assert.deepEqual((body as { sites: string[] }).sites, []);
        const after = await user.json('GET', job.url);
        assert.equal(
          (after.body as { status: string }).status,
          'SUCCESSFUL',
          'a job outlives its machine',
        );
      },
    );

  it(
    'needs no network: the machine reaches nothing on the host',
    { skip: noContainers },
    async () => {
      const image = await findImage(user, 'Transform', 'rootfs');
      const site = await createTargetSystem(user, image.id, {});
      await waitUntilReady(user, site, signal, () => undefined);
      const input = join(grid.layout.state, 'probe');
      await writeFile(input, '');
      const { headers } = await user.json('POST', site, {
        Executable: `bash -c "echo > /dev/tcp/127.0.0.1/${grid.address.port}"`,
      });
      const job = new URL(String(headers['location'])).pathname;
      for (;;) {
        const { status } = (await user.json('GET', job)).body as { status: string };
        if (status === 'FAILED') break;
        assert.notEqual(status, 'SUCCESSFUL');
      }
      assert.ok(await exists(input));
      await deleteAndWait(user, site, signal);
    },
  );
});
