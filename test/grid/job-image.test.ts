import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import type { HttpClient } from '#kernel/http/client.js';
import { inProject } from '../program.js';
import { pythonWith } from './clients/python.js';
import { eventually, Grid, imagesPath, noContainers, refusal, sitePath } from './grid.js';

const run = promisify(execFile);
type Job = {
  status: string;
  statusMessage: string;
  log: string[];
  _links: { parentTSS: { href: string } };
};
type Site = { image: { name: string }; parameters: object; resourceStatus: string };

describe('jobs that name an image, on real machines', { skip: noContainers }, () => {
  let grid: Grid;
  let user: HttpClient;
  let image = '';
  before(async () => {
    grid = await Grid.start();
    image = await grid.publishDemo('container');
    user = await grid.user();
  });
  after(async () => grid[Symbol.asyncDispose]());

  const read = async <T>(path: string): Promise<T> => (await user.json('GET', path)).body as T;
  const submit = async (job: object, path = `${sitePath}/jobs`): Promise<string> => {
    const { headers } = await user.json('POST', path, job);
    return new URL(String(headers['location'])).pathname;
  };
  const ends = (path: string): Promise<Job> =>
    eventually(`${path} ends`, async () => {
      const job = await read<Job>(path);
      assert.notEqual(job.status, 'FAILED', `${job.statusMessage}\n${job.log.join('\n')}`);
      return job.status === 'SUCCESSFUL' && job;
    });
  const siteOf = (job: Job): string => new URL(job._links.parentTSS.href).pathname;
  const nothingIsLeft = (): Promise<unknown> =>
    eventually('nothing is left', async () => {
      const domains = await grid.domains('lxc');
      return domains.length === 0 && (await grid.machineDirectories()).length === 0;
    });

  it('run in a machine of their own, which ends when they are deleted', async () => {
    const requirements = { application: 'Transform', os: 'Debian' };
    const path = await submit({
      Executable: 'echo hello; cat /etc/os-release',
      Resources: { CPUs: 1, Runtime: '5m', Image: requirements },
    });
    const job = await ends(path);
    assert.match(
      job.log.join('\n'),
      new RegExp(`Image: image .*${image}.* was chosen: it has Transform`),
    );
    const site = await read<Site>(siteOf(job));
    assert.equal(site.resourceStatus, 'READY');
    const id = path.split('/').at(-1)!;
    const { body } = await user.download(`${sitePath}/storages/${id}-uspace/files/stdout`);
    assert.match(await text(body), /^hello\n[\s\S]*Debian/);
    await user.json('DELETE', path);
    await nothingIsLeft();
  });

  it('have it when the server is killed right after they were submitted, once', async () => {
    const path = await submit({ Executable: 'echo once', Image: image });
    await grid.killServer();
    await grid.startServer();
    const job = await ends(path);
    assert.equal((await grid.domains('lxc')).length, 1);
    await user.json('DELETE', path);
    await nothingIsLeft();
    // its record goes after all that it had
    const refused = await eventually('it is known no more', () =>
      user.json('GET', siteOf(job)).then(
        () => false as const,
        (error: unknown) => ({ error }),
      ),
    );
    assert.ok(refusal(404, /no target system/)(refused.error));
  });

  it('are refused where no image fits, and nothing is made', async () => {
    const job = (Image: unknown): object => ({ Executable: 'date', Image });
    await assert.rejects(
      submit(job({ os: 'Plan 9' })),
      refusal(404, /no published image with os Plan 9/),
    );
    await assert.rejects(
      submit(job('nobody-knows')),
      refusal(404, /no published image nobody-knows/),
    );
    const other = await grid.addUser('Other', 'other');
    const creator = await grid.creator();
    const path = `${imagesPath}/${image}`;
    await creator.json('PUT', path, { visibility: 'private' });
    await assert.rejects(other.json('POST', `${sitePath}/jobs`, job(image)), refusal(404, /image/));
    await creator.json('PUT', path, { visibility: 'public' });
    await nothingIsLeft();
  });

  it('are submitted by an unmodified pyunicore', async () => {
    const python = await pythonWith(['pyunicore', 'cryptography']);
    const script = inProject('test/grid/clients/pyunicore_image.py');
    const args = [script, `${grid.url}${sitePath}`, 'demouser', 'test123'];
    const cwd = await mkdtemp(join(tmpdir(), 'vsite-py-'));
    const { stdout } = await run(python, args, { timeout: 120_000, cwd });
    await rm(cwd, { recursive: true });
    const result = JSON.parse(stdout) as Record<string, unknown>;
    assert.match(String(result['stdout']), /GRID MIDDLEWARE\n$/);
    assert.match(String(result['log']), /Image: image vsite-demo-container/);
    assert.deepEqual(
      { ...result, stdout: '', log: '' },
      {
        status: 'SUCCESSFUL',
        stdout: '',
        log: '',
        image: 'vsite-demo-container',
        reservations: [],
      },
    );
    await nothingIsLeft();
  });
});
