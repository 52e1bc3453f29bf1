import assert from 'node:assert/strict';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { deleteAndWait } from '#cli/client/resources.js';
import { createTargetSystem, findImage, waitUntilReady } from '#cli/quickstart/main-job.js';
import type { HttpClient } from '#kernel/http/client.js';
import { eventually, exists, Grid, noContainers, refusal, sitePath } from './grid.js';

const signal = AbortSignal.timeout(300_000);

describe('storages of a container and of the server', { skip: noContainers }, () => {
  let grid: Grid;
  let user: HttpClient;
  let site: string;
  before(async () => {
    grid = await Grid.start();
    await grid.publishDemo('container');
    user = await grid.user();
    const image = await findImage(user, 'Transform', 'rootfs');
    site = await createTargetSystem(user, image.id, {});
    await waitUntilReady(user, site, signal, () => undefined);
  });
  after(async () => grid[Symbol.asyncDispose]());

  const upload = (path: string, content: string) =>
    user.upload('PUT', path, Readable.from([Buffer.from(content)]));
  const download = async (path: string): Promise<string> => text((await user.download(path)).body);

  it('keep the files of jobs in the guest, those on the server over crash and machine', async () => {
    // by a token that only root of the container could read, and that is gone
    assert.match(await grid.logText(), /"isNew":true,"msg":"machine certified"/);
    const token = join(grid.layout.state, 'vms', site.split('/').at(-1)!, 'run', 'enrolment');
    await eventually('the token is gone', async () => !(await exists(token)));
    const home = `${sitePath}/storages/${site.split('/').at(-1)!}-HOME`;
    const data = `${sitePath}/storages/DATA/files`;
    await upload(`${home}/files/in.txt`, 'for the job\n');
    const { headers } = await user.json('POST', site, {
      Executable: 'tr a-z A-Z < $HOME/in.txt > $HOME/out.txt',
    });
    const job = new URL(String(headers['location'])).pathname;
    await eventually('the job is over', async () => {
      const { status } = (await user.json('GET', job)).body as { status: string };
      return status === 'SUCCESSFUL';
    });
    const result = await download(`${home}/files/out.txt`);
    assert.equal(result, 'FOR THE JOB\n');
    await upload(`${data}/results/out.txt`, result);
    const made = await user.json('POST', `${sitePath}/storages`, {});
    const own = new URL(String(made.headers['location'])).pathname;
    await grid.killServer();
    await grid.startServer();
    await eventually('the storage is ready', async () => {
      const { body } = await user.json('GET', `${own}?fields=resourceStatus`);
      return (body as { resourceStatus: string }).resourceStatus === 'READY';
    });
    await deleteAndWait(user, site, signal);
    await assert.rejects(user.json('GET', home), refusal(404, /no storage/));
    assert.equal(await download(`${data}/results/out.txt`), result);
  });
});
