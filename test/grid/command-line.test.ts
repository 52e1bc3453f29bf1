import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { tar } from '#cli/image/archive.js';
import { eventually, Grid, noContainers, sitePath } from './grid.js';

type Outcome = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

describe('the command line', { skip: noContainers, timeout: 240_000 }, () => {
  let grid: Grid;
  let directory: string;

  /** Runs `vsite` as a person would. */
  async function vsite(...args: string[]): Promise<Outcome> {
    const child = grid.vsite(args, directory);
    child.stdin.end();
    const [[code], stdout, stderr] = await Promise.all([
      once(child, 'close') as Promise<[number | null]>,
      text(child.stdout),
      text(child.stderr),
    ]);
    return { code, stdout, stderr };
  }

  async function succeed(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await vsite(...args);
    assert.equal(code, 0, stderr);
    return stdout;
  }

  before(async () => {
    grid = await Grid.start();
    directory = await mkdtemp(join(tmpdir(), 'vsite-cli-'));
    await grid.publishDemo('container');
  });
  after(async () => {
    await grid[Symbol.asyncDispose]();
    await rm(directory, { recursive: true, force: true });
  });

  it('finds an image and runs a job on a target system of its own, which is gone afterwards', async () => {
    assert.match(await succeed('image', 'list'), /vsite-demo-container:1\.0 +PUBLISHED +rootfs/);
    await writeFile(join(directory, 'in.txt'), 'some words\n');
    const run = ['run', 'Transform', '--param', 'INPUT=in.txt', '--input', 'in.txt'];
    const stdout = await succeed(...run, '--image', 'vsite-demo-container');
    assert.match(stdout, /^SOME WORDS$/m);
    assert.deepEqual(JSON.parse(await succeed('site', 'list', '--json')), []);
  });

  it('ends with the exit code of the job, and fetches what it wrote', async () => {
    const site = (await succeed('site', 'create', 'vsite-demo-container')).trim();
    const script = 'echo out; echo err >&2; echo result > file; exit 7';
    const run = ['run', '--site', site, '--executable', script, '--output', 'file:fetched'];
    const { code, stdout, stderr } = await vsite(...run);
    assert.deepEqual([code, stdout], [7, 'out\n']);
    assert.match(stderr, /^err$/m);
    assert.equal(await readFile(join(directory, 'fetched'), 'utf8'), 'result\n');

    const [job] = JSON.parse(await succeed('job', 'list', '--json')) as { id: string }[];
    await succeed('cp', 'fetched', `job/${job!.id}:made/by hand`);
    assert.match(await succeed('ls', `job/${job!.id}:made`), /by hand/);
    assert.equal(await succeed('cat', `job/${job!.id}:made/by hand`), 'result\n');
    assert.match(await succeed('job', 'log', job!.id), /Exit code: 7/);
    await succeed('job', 'delete', job!.id);
    await succeed('site', 'delete', site);
  });

  it('starts, aborts, restarts and awaits jobs', async () => {
    const site = (await succeed('site', 'create', 'vsite-demo-container')).trim();
    const submit = async (script: string, ...more: string[]): Promise<string> => {
      const run = ['run', '--site', site, '--detach', '--executable', script, ...more];
      return (await succeed(...run)).trim();
    };
    const count = 'echo x >> count; exit $(wc -l < count)';
    const job = await submit(count);
    assert.equal((await vsite('job', 'wait', job)).code, 1);
    assert.deepEqual(JSON.parse(await succeed('job', 'restart', job, '--json')), {
      restart: [job],
    });
    const second = await vsite('job', 'wait', job, '--json');
    assert.equal(second.code, 2);
    assert.equal((JSON.parse(second.stdout) as { exitCode: string }).exitCode, '2');

    const endless = await submit('sleep 1000');
    await succeed('job', 'abort', endless);
    const aborted = await vsite('job', 'wait', endless);
    assert.equal(aborted.code, 1);
    assert.match(aborted.stderr, /FAILED/);
    assert.equal((await vsite('job', 'abort', 'none')).code, 4);

    // one that waits for files which somebody else brings
    const description = { Executable: 'cat in', haveClientStageIn: 'true' };
    const user = await grid.user();
    const made = await user.json('POST', `${sitePath}/sites/${site}/jobs`, description);
    const waiting = String(made.headers['location']).split('/').at(-1)!;
    await writeFile(join(directory, 'brought'), 'brought\n');
    await eventually('its directory is there', async () => {
      const { code } = await vsite('cp', 'brought', `job/${waiting}:in`);
      return code === 0;
    });
    await succeed('job', 'start', waiting);
    await succeed('job', 'wait', waiting);
    assert.equal(await succeed('cat', `job/${waiting}:stdout`), 'brought\n');
    await succeed('job', 'delete', job, endless, waiting);
    await succeed('site', 'delete', site);
  });

  it('publishes, shows and deletes an image, and leaves nothing of one that fails', async () => {
    const metadata = {
      ...{ name: 'by-hand', version: '1.0', format: 'rootfs', visibility: 'private' },
      os: { distribution: 'Debian', version: '12' },
      requirements: {
        cpus: { min: 1, default: 1, max: 1 },
        memoryMiB: { min: 64, default: 64, max: 128 },
      },
      tsi: { login: 'grid', jobsDirectory: '/home/grid/jobs' },
    };
    const file = join(directory, 'metadata.yaml');
    await writeFile(file, JSON.stringify(metadata));
    const root = { type: 'directory', mode: 0o755, owner: 0 } as const;
    await writeFile(
      join(directory, 'root.tar'),
      Buffer.concat([...tar(new Map([['/home', root]]))]),
    );
    const names = async (): Promise<unknown> =>
      JSON.parse(await succeed('image', 'list', '--name', 'by-hand', '--json'));
    const failed = await vsite('image', 'publish', file, 'rootfs=nowhere');
    assert.equal(failed.code, 1);
    assert.deepEqual(await names(), []);
    await writeFile(file, JSON.stringify({ ...metadata, name: 7 }));
    const wrong = await vsite('image', 'publish', file, 'rootfs=root.tar');
    assert.deepEqual([wrong.code, wrong.stderr.includes('metadata.yaml: name: ')], [2, true]);

    await writeFile(file, JSON.stringify(metadata));
    const publish = ['image', 'publish', file, 'rootfs=root.tar', '--json'];
    const { id } = JSON.parse(await succeed(...publish)) as { id: string };
    const shown = JSON.parse(await succeed('image', 'show', id)) as Record<string, unknown>;
    assert.deepEqual([shown['id'], shown['state']], [id, 'PUBLISHED']);
    assert.deepEqual(JSON.parse(await succeed('image', 'delete', id, '--json')), { deleted: [id] });
    assert.equal((await vsite('image', 'show', id)).code, 4);
  });

  it('tells what may be had, and what would be made, before anything is', async () => {
    assert.match(await succeed('site', 'offer'), /user CN=.* +0\/16 +0\/- /);
    const create = ['site', 'create', '--require', 'application=Transform', '--dry-run'];
    const plan = await succeed(...create);
    assert.match(plan, /it has Transform 1\.0.*\nhost local: .*\nlxc: cpus 1, memoryMiB/);
    assert.match(plan, /an hour: 1 core-hours/);
    const { image } = JSON.parse(await succeed(...create, '--json')) as { image: object };
    assert.match(JSON.stringify(image), /vsite-demo-container/);
    assert.equal((await vsite('site', 'create', '--require', 'os')).code, 2);
    assert.deepEqual(JSON.parse(await succeed('site', 'list', '--json')), []);
  });

  it('tells by its exit code what went wrong', async () => {
    assert.equal((await vsite('job', 'nonsense')).code, 2);
    assert.equal((await vsite('ls', 'here')).code, 2);
    const unknown = await vsite('job', 'show', 'none');
    assert.deepEqual([unknown.code, unknown.stdout], [4, '']);
    assert.match(unknown.stderr, /^vsite: there is no job none$/m);
    const profile = join(directory, 'elsewhere.yaml');
    await writeFile(profile, 'url: https://127.0.0.1:9\n');
    assert.equal((await vsite('--profile', profile, 'site', 'list')).code, 5);
    await writeFile(profile, 'url: http://127.0.0.1:9\n');
    const wrong = await vsite('--profile', profile, 'site', 'list');
    assert.match(wrong.stderr, /elsewhere\.yaml: url: must be an https URL/);
  });

  it('finds what is wrong with an installation, and says what to do', async () => {
    type Finding = { name: string; state: string; text: string; remedy?: string };
    const doctor = async (): Promise<{ code: Outcome['code']; of: (name: string) => Finding }> => {
      const { code, stdout } = await vsite('doctor', '--json', '--config', grid.layout.config);
      const findings = JSON.parse(stdout) as Finding[];
      return { code, of: (name) => findings.find((each) => each.name === name)! };
    };
    const well = await doctor();
    assert.equal(well.code, 0);
    for (const name of ['configuration', 'libvirt for containers', 'certificates', 'gateway'])
      assert.equal(well.of(name).state, 'good', well.of(name).text);

    assert.match(well.of('libvirt for machines').text, /^libvirt [\d.]+, QEMU [\d.]+ at qemu/);

    const key = join(grid.layout.credentials, 'server.key');
    await chmod(key, 0o644);
    await grid.set('targetsystem', 'xnjs.hypervisor.containers', 'lxc+unix:///system?socket=/none');
    await grid.stopServer();
    const ill = await doctor();
    assert.equal(ill.code, 1);
    assert.match(ill.of('secrets').remedy!, /chmod go= .*server\.key/);
    assert.equal(ill.of('libvirt for containers').state, 'bad');
    assert.equal(ill.of('gateway').state, 'doubtful');

    await grid.set('gateway', 'listen.port', 'eight');
    const broken = await doctor();
    assert.match(broken.of('configuration').text, /gateway\.yaml: listen\.port/);
  });

  it('writes an installation, and never over one that exists', async () => {
    const state = join(directory, 'new');
    assert.match(
      await succeed('init', '--state-dir', state),
      /^vsite serve --config .*new\/config$/m,
    );
    const config = await readFile(join(state, 'config', 'targetsystem.yaml'), 'utf8');
    assert.match(config, /machines: qemu:\/\/\/system/);
    const forced = await succeed('init', '--state-dir', state, '--force', '--json');
    assert.deepEqual(JSON.parse(forced), { config: join(state, 'config') });
    const again = await vsite('init', '--state-dir', state);
    assert.match(again.stderr, /exists; --force writes it anew/);
  });
});
