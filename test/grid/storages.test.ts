import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { deleteAndWait } from '#cli/client/resources.js';
import { createTargetSystem, findImage, waitUntilReady } from '#cli/quickstart/main-job.js';
import type { HttpClient } from '#kernel/http/client.js';
import { pythonWith } from './clients/python.js';
import { eventually, Grid, noContainers, refusal, sitePath } from './grid.js';

const run = promisify(execFile);
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

  it('are used by an unmodified pyunicore', async () => {
    const python = await pythonWith(['pyunicore']);
    const script = join(import.meta.dirname, 'clients', 'pyunicore_storages.py');
    const core = `${grid.url}${sitePath}`;
    const { stdout } = await run(
      python,
      [script, core, 'demouser', 'test123', `${grid.url}${site}`],
      { timeout: 120_000 },
    );
    const id = site.split('/').at(-1)!;
    const used = {
      listed: ['/a/b/', '/a/streamed.txt'],
      size: 10,
      raw: '234',
      moved: '0123456789',
      isdir: true,
    };
    assert.deepEqual(JSON.parse(stdout), {
      storages: [`${id}-HOME`, `${id}-WORK`, 'DATA'].sort(),
      home: used,
      data: used,
      made: used,
      transfers: {
        status: ['DONE', 'DONE', 'CREATED', 'ABORTED'],
        bytes: [10, 10],
        received: 'to be sent',
        listed: 3,
        left: 0,
      },
      withoutLogin: 'to be sent',
      properties: { tags: 'OK', umask: 'OK' },
      tagged: [true],
      left: 0,
    });
  });

  it('keep the files of jobs in the guest, those on the server over crash and machine', async () => {
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
