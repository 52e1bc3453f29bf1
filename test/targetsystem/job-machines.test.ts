import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { Job, Site } from '#targetsystem/rest/answers.js';
import { until } from '../xnjs/job/rig.js';
import { idOf, startCompute, type Ask, type Compute } from './compute-rig.js';

const hello = { Name: 'Hello', Version: '2.1', Executable: 'echo', Arguments: ['hello'] };

describe('jobs that name an image', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let rig: Compute;
  let alice: Ask;
  before(async () => {
    rig = await startCompute(scope, { jobs: { reaperIntervalMs: 20 } });
    alice = rig.as('alice');
    rig.images.add({ name: 'old', applications: [{ ...hello, Version: '2.0' }] });
    rig.images.add({ name: 'new', applications: [hello] });
    rig.images.add({ name: 'newest', applications: [{ ...hello, Version: '1.0' }] });
    rig.images.add({
      name: 'huge',
      requirements: {
        cpus: { min: 16, default: 16, max: 32 },
        memoryMiB: { min: 64, default: 64, max: 64 },
      },
    });
  });
  after(() => scope.close());

  const show = async (id: string) => Job.parse((await alice('GET', `/jobs/${id}`)).body);
  const reaches = (id: string, status: string) =>
    until(`${id} ${status}`, async () => (await show(id)).status === status);
  const siteOf = async (id: string): Promise<string> =>
    (await show(id))._links['parentTSS']!.href.split('/').at(-1)!;
  async function removed(id: string, site: string): Promise<void> {
    await alice('DELETE', `/jobs/${id}`);
    await until(
      'machine is gone',
      async () => (await alice('GET', `/sites/${site}`)).status === 404,
    );
    assert.equal((await alice('GET', `/jobs/${id}`)).status, 404);
    assert.equal(await rig.hypervisor.find('qemu', site), undefined);
  }

  it('have a machine of their own as large as they ask for, which is there until they are deleted', async () => {
    const description = {
      Executable: 'echo hello; nproc',
      Image: 'plain',
      Resources: { CPUs: '2', Memory: '1G', Runtime: '1h' },
    };
    const id = idOf(await alice('POST', '/jobs', description));
    const site = await siteOf(id);
    const shown = Site.parse((await alice('GET', `/sites/${site}`)).body);
    assert.deepEqual(shown.parameters, { cpus: 2, memoryMiB: 1024 });
    assert.equal(shown.image.name, 'plain');
    assert.ok(shown._links['job']!.href.endsWith(`/jobs/${id}`));
    await reaches(id, 'SUCCESSFUL');
    assert.equal((await alice('GET', `/sites/${site}`)).body['resourceStatus'], 'READY');
    const log = (await show(id)).log.join('\n');
    assert.match(log, /Image: image plain:12 \(.+\) was asked for/);
    assert.match(log, new RegExp(`Machine: ${site} with 2 CPUs and 1024 MiB, for this job alone`));
    const submitted = (await alice('GET', `/jobs/${id}/submitted`)).body;
    assert.equal(submitted['Image'], 'plain');
    await removed(id, site);
  });

  it('have the best of the images that fit what they require, and are told why', async () => {
    const description = { ApplicationName: 'Hello', Resources: { Image: { os: 'Debian' } } };
    const id = idOf(await alice('POST', '/jobs', description));
    const site = await siteOf(id);
    assert.equal(rig.systems.get(site).image.metadata.name, 'new');
    const log = (await show(id)).log.join('\n');
    assert.match(log, /image new:12 .* it has Hello 2\.1, it is the newest version of 3 that fit/);
    await reaches(id, 'SUCCESSFUL');
    await removed(id, site);
  });

  it('have an image for the system and processor that stand among their resources', async () => {
    const os = { type: 'FREEBSD', distribution: 'FreeBSD', version: '15', architecture: 'aarch64' };
    rig.images.add({ name: 'beastie', os });
    rig.images.add({ name: 'latest' });
    const wish = { Image: '*', Resources: { OperatingSystem: 'FREEBSD', CPUArchitecture: 'arm' } };
    const id = idOf(await alice('POST', '/jobs', wish));
    const site = await siteOf(id);
    assert.equal(rig.systems.get(site).image.metadata.name, 'beastie');
    await reaches(id, 'SUCCESSFUL');
    await removed(id, site);
    rig.images.records.splice(0, 2);
  });

  it('leave other jobs alone: their machines are not for those that name none', async () => {
    const own = idOf(await alice('POST', '/jobs', { Image: 'plain', haveClientStageIn: true }));
    assert.equal((await alice('POST', '/jobs', { Executable: 'x' })).status, 400);
    const plain = rig.images.records.find(({ metadata }) => metadata.name === 'plain')!;
    const site = idOf(await alice('POST', '/sites', { image: 'plain' }));
    const there = await siteOf(idOf(await alice('POST', '/jobs', { haveClientStageIn: true })));
    assert.equal(there, site);
    const fits = { Image: plain.id, haveClientStageIn: true };
    assert.equal(await siteOf(idOf(await alice('POST', `/sites/${site}`, fits))), site);
    const other = { Image: 'new', haveClientStageIn: true };
    const elsewhere = idOf(await alice('POST', `/sites/${site}`, other));
    assert.notEqual(await siteOf(elsewhere), site);
    await removed(elsewhere, await siteOf(elsewhere));
    await removed(own, await siteOf(own));
    await alice('DELETE', `/sites/${site}`);
    await until('site is gone', async () => (await alice('GET', `/sites/${site}`)).status === 404);
  });

  const refused: readonly (readonly [string, object, number, RegExp])[] = [
    ['an image that nobody knows', { Image: 'none' }, 404, /^image: .* none/],
    ['an image that is a number of things', { Image: [1] }, 400, /^Image: must be a text/],
    ['a requirement that is none', { Image: { colour: 'red' } }, 400, /^Image: .*colour/],
    ['an application that none has', { Image: { application: 'Nope' } }, 404, /no published image/],
    [
      'a version that none has',
      { ApplicationName: 'Hello', ApplicationVersion: '>=3', Image: {} },
      404,
      /^Image: none of 3 images fits: image newest:12 .* has no Hello >=3/,
    ],
    [
      'more than fits any',
      { Image: { application: 'Hello' }, Resources: { CPUs: 64 } },
      404,
      /Resources\.CPUs: 64 is above 4/,
    ],
    [
      'more than fits',
      { Image: 'plain', Resources: { Memory: '64G' } },
      400,
      /^Resources\.Memory: 65536 MiB .* 320-4096/,
    ],
    [
      'an image of another system than they need',
      { Image: 'plain', Resources: { OperatingSystem: 'FREEBSD' } },
      404,
      /^Image: image plain:12 \(.+\) does not fit: osType is LINUX, not FREEBSD/,
    ],
    [
      'a processor that no image is for',
      { Image: '*', Resources: { CPUArchitecture: 'sparc' } },
      400,
      /^Resources\.CPUArchitecture: .*x86_64/,
    ],
    [
      'a system that no image has',
      { Image: '*', Resources: { OperatingSystem: 'WINNT', CPUArchitecture: 'x86_64' } },
      404,
      /^Image: none of \d images fits: .*osType is LINUX, not WINNT/,
    ],
    ['two nodes', { Image: 'plain', Resources: { Nodes: 2 } }, 400, /^Resources\.Nodes: 2/],
    [
      'an image that no machine here is large enough for',
      { Image: { name: 'huge' } },
      404,
      /huge.* needs more cpus/,
    ],
  ];
  for (const [what, description, status, text] of refused)
    it(`are refused with ${what}, and nothing is made`, async () => {
      const answer = await alice('POST', '/jobs', description);
      assert.equal(answer.status, status, JSON.stringify(answer.body));
      assert.match(String(answer.body['errorMessage']), text);
      assert.deepEqual(rig.systems.list(), []);
    });

  it('lose their machine when their life time is over, which may be put off', async () => {
    const id = idOf(await alice('POST', '/jobs', { Image: 'plain' }));
    const site = await siteOf(id);
    const day = 86_400_000;
    const soon = new Date(rig.clock.now() + 2 * day).toISOString().slice(0, 19) + '+0000';
    const changed = await alice('PUT', `/jobs/${id}`, { terminationTime: soon });
    assert.deepEqual(changed.body, { terminationTime: 'OK' });
    rig.clock.advance(day);
    assert.equal((await alice('GET', `/jobs/${id}`)).status, 200);
    rig.clock.advance(day + 1_000);
    await until('job is gone', async () => (await alice('GET', `/jobs/${id}`)).status === 404);
    await until('machine is gone', () => rig.systems.list().every((each) => each.id !== site));
  });

  it('keep their machine over a restart; one whose job was never stored is removed', async () => {
    const id = idOf(await alice('POST', '/jobs', { Image: 'plain', haveClientStageIn: true }));
    const site = await siteOf(id);
    // what a crash between the two leaves behind
    const wish = { ownerDn: 'CN=Alice,O=Grid', image: 'plain', parameters: {}, tags: [] };
    const lost = await rig.systems.create({
      ...wish,
      jobId: '11111111-2222-4333-8444-555555555555',
    });
    rig = await rig.restart();
    alice = rig.as('alice');
    await until('leftover is gone', () => rig.systems.list().every((each) => each.id !== lost.id));
    assert.equal(rig.systems.get(site).jobId, id);
    await removed(id, site);
  });
});
