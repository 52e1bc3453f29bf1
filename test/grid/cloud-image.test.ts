import assert from 'node:assert/strict';
import { generateKeyPairSync } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { makeAgentDisk } from '#cli/image/agent-disk.js';
import { createTargetSystem, publish, waitUntilReady } from '#cli/quickstart/main-job.js';
import { ImageMetadata } from '#imagerepo/contract.js';
import type { HttpClient } from '#kernel/http/client.js';
import { makeCloudImage, noCloudImages } from './cloud-image.js';
import { eventually, Grid, noMachines, sitePath } from './grid.js';

/** `1`, or the path of such a disk that was made before. */
const wanted = process.env['VSITE_CLOUD_IMAGE'];
const skip =
  wanted === undefined || wanted === ''
    ? 'takes minutes under emulation: set VSITE_CLOUD_IMAGE=1'
    : noMachines || noCloudImages;
const signal = AbortSignal.timeout(1_800_000);

const metadata = ImageMetadata.parse({
  name: 'debian-cloud',
  version: '12',
  visibility: 'public',
  format: 'qcow2',
  os: { distribution: 'Debian', version: '12' },
  requirements: {
    cpus: { min: 1, default: 1, max: 2 },
    memoryMiB: { min: 512, default: 768, max: 1_024 },
  },
  tsi: { login: 'grid', jobsDirectory: '/home/grid/jobs' },
  contextualisation: { nocloud: true, agent: true, userData: true, enrolment: 'required' },
});

/** In the form of `id_ed25519.pub`. */
function sshKey(): string {
  const { publicKey } = generateKeyPairSync('ed25519');
  const raw = publicKey.export({ type: 'spki', format: 'der' }).subarray(-32);
  const field = (bytes: Buffer): Buffer => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(bytes.length);
    return Buffer.concat([length, bytes]);
  };
  const body = Buffer.concat([field(Buffer.from('ssh-ed25519')), field(raw)]);
  return `ssh-ed25519 ${body.toString('base64')} owner@example.org`;
}

describe('a cloud image without a TSI', { skip }, () => {
  let grid: Grid;
  let user: HttpClient;
  let work: string;
  let image: string;
  before(async () => {
    work = await mkdtemp(join(tmpdir(), 'vsite-cloud-'));
    const disk = wanted === '1' ? await makeCloudImage(join(work, 'cloud')) : (wanted ?? '');
    const agentDisk = join(work, 'agent.img');
    await makeAgentDisk(agentDisk);
    grid = await Grid.start();
    await grid.stopServer();
    await grid.set('targetsystem', 'xnjs.hypervisor.agentDisk', agentDisk);
    await grid.set('targetsystem', 'xnjs.targetSystems.bootTimeoutSeconds', 900);
    await grid.startServer();
    user = await grid.user();
    const built = { metadata, parts: { disk }, key: '', cached: false };
    image = await publish(await grid.creator(), built);
  });
  after(async () => {
    await grid[Symbol.asyncDispose]();
    await rm(work, { recursive: true });
  });

  const run = async (site: string, script: string): Promise<string> => {
    const { headers } = await user.json('POST', `${site}/jobs`, { Executable: script });
    const job = new URL(String(headers['location'])).pathname;
    await eventually(
      'the job has ended',
      async () => {
        const { status } = (await user.json('GET', job)).body as { status: string };
        assert.notEqual(status, 'FAILED');
        return status === 'SUCCESSFUL';
      },
      900_000,
    );
    const uspace = `${sitePath}/storages/${job.split('/').at(-1)!}-uspace`;
    return await text((await user.download(`${uspace}/files/stdout`)).body);
  };

  it('is set up by its seed disk, gets our agent, and proves which machine it is', async (test) => {
    const key = sshKey();
    const begunMs = performance.now();
    const site = await createTargetSystem(user, image, {
      sshKeys: [key],
      userData: `#cloud-config
write_files:
  - { path: /etc/of-the-owner, content: "from user data" }
runcmd:
  - cp /home/debian/.ssh/authorized_keys /etc/seen-keys && chmod 644 /etc/seen-keys
`,
    });
    await waitUntilReady(user, site, signal, () => undefined);
    test.diagnostic(`ready after ${Math.round((performance.now() - begunMs) / 1_000)} s`);
    const id = site.split('/').at(-1) ?? '';
    const name = `vsite-${id.slice(0, 8)}`;
    assert.match(await grid.logText(), /"msg":"machine certified"/);
    const settled =
      'for i in $(seq 600); do [ -s /etc/seen-keys ] && break; sleep 1; done; ' +
      'hostname; cat /etc/of-the-owner; echo; cat /etc/seen-keys; wc -c < /etc/machine-id';
    const [host, own, ...rest] = (await run(site, settled)).trim().split('\n');
    assert.deepEqual([host, own], [name, 'from user data']);
    assert.ok(
      rest.some((line) => line === key),
      rest.join('\n'),
    );
    // wherever the token may lie, a job does not get at it, and it is used up
    const places =
      '/etc/vsite/enrolment /dev/vdy /var/lib/cloud/instance/user-data.txt /var/lib/unicore-tsi/enrolment.json';
    const tried = await run(
      site,
      `for f in ${places}; do head -c 1 $f >/dev/null 2>&1 && echo read $f; done; echo tried`,
    );
    assert.equal(tried.trim(), 'tried');
  });
});
