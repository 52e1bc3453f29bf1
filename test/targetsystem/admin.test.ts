/* eslint-disable @typescript-eslint/no-unsafe-member-access, @typescript-eslint/no-unsafe-argument, @typescript-eslint/no-unsafe-assignment -- answers are looked at as they are expected */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { until } from '../xnjs/job/rig.js';
import { idOf, startCompute, type Ask, type Compute } from './compute-rig.js';

describe('administration by REST', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let rig: Compute;
  let admin: Ask;
  let alice: Ask;
  let site = '';
  before(async () => {
    rig = await startCompute(scope, { connections: () => ({ 'libvirt qemu': 'DOWN' }) });
    [admin, alice] = [rig.as('admin'), rig.as('alice')];
    site = idOf(await alice('POST', '/sites', { image: 'plain', resources: { CPUs: 2 } }));
  });
  after(() => scope.close());

  const act = (name: string, parameters: object = {}) =>
    admin('POST', `/rest/admin/actions/${name}`, parameters);
  const wait = { haveClientStageIn: true };

  it('is for administrators alone', async () => {
    for (const name of ['alice', 'nobody']) {
      assert.equal((await rig.as(name)('GET', '/rest/admin')).status, 403);
      const path = '/rest/admin/actions/ToggleJobSubmission';
      assert.equal((await rig.as(name)('POST', path, {})).status, 403);
    }
  });

  it('shows how the service does, and every action with its description', async () => {
    const { body } = await admin('GET', '/rest/admin');
    assert.deepEqual(body['connectionStatus'], { 'libvirt qemu': 'DOWN' });
    assert.equal(body['subSystemsStatus']['Job submission'], 'OK');
    assert.equal(body['metrics']['targetSystems.total'], 1);
    assert.equal(body['containerVersion'], '11.1.0');
    const links = body['_links'] as Record<string, { href: string; description: string }>;
    for (const name of ['ToggleJobSubmission', 'ShowServerUsageOverview', 'AbortJob']) {
      const link = links[`action:${name}`]!;
      assert.equal(link.href, `https://grid.example/TEST/rest/admin/actions/${name}`);
      assert.ok(link.description.length > 10);
    }
    const some = (await admin('GET', '/rest/admin?fields=upSince')).body;
    assert.deepEqual(Object.keys(some), ['upSince']);
    assert.equal((await act('Nothing')).status, 404);
    assert.equal((await act('constructor')).status, 404);
  });

  it('stops taking jobs with a message, which a restart does not forget', async () => {
    const stopped = await act('ToggleJobSubmission', { message: 'maintenance until noon' });
    assert.deepEqual(stopped.body['success'], true);
    rig = await rig.restart();
    [admin, alice] = [rig.as('admin'), rig.as('alice')];
    const { body } = await alice('GET', '/');
    assert.deepEqual(body['server'].jobSubmission, {
      enabled: false,
      message: 'maintenance until noon',
    });
    for (const [path, job] of [
      ['/jobs', wait],
      [`/sites/${site}`, wait],
      ['/jobs', { Image: 'plain' }],
    ] as const) {
      const refused = await alice('POST', path, job);
      assert.equal(refused.status, 503);
      assert.equal(refused.body['errorMessage'], 'maintenance until noon');
    }
    assert.equal(rig.systems.list().length, 1, 'no machine for a job that is refused');
    await act('ToggleJobSubmission');
    assert.deepEqual((await alice('GET', '/')).body['server'].jobSubmission, {
      enabled: true,
      message: '',
    });
    assert.equal((await alice('POST', '/jobs', wait)).status, 201);
  });

  it('shows who uses the server how much, lists jobs by user, shows one and ends it', async () => {
    const usage = (await act('ShowServerUsageOverview', { clientDN: 'ALICE' })).body['results'];
    assert.deepEqual(usage['CN=Alice,O=Grid'], {
      jobs: 1,
      unfinishedJobs: 1,
      targetSystems: 1,
      cpus: 2,
      memoryMiB: 384,
    });
    assert.deepEqual(
      (await act('ShowServerUsageOverview', { clientDN: 'bob' })).body['results'],
      {},
    );
    const listed = (await act('ListJobs', { clientDN: 'CN=Alice, O=Grid' })).body['results'];
    const [[url, state]] = Object.entries(listed) as [[string, string]];
    assert.match(state, /CN=Alice,O=Grid$/);
    const jobID = url.split('/').at(-1)!;
    const shown = (await act('ShowJobDetails', { jobID })).body;
    assert.equal(shown['results'].ownerDn, 'CN=Alice,O=Grid');
    assert.equal((await act('AbortJob', { jobID })).body['success'], true);
    await until('it is over', async () => (await rig.jobs.get(jobID)).state === 'DONE');
    assert.equal((await act('AbortJob', { jobID, cleanup: 'true' })).body['success'], true);
    assert.equal((await alice('GET', `/jobs/${jobID}`)).status, 404);
    const gone = (await act('ShowJobDetails', { jobID })).body;
    assert.deepEqual([gone['success'], gone['message']], [false, `there is no job ${jobID}`]);
    assert.match((await act('AbortJob')).body['message'], /^jobID: must be given/);
  });

  it('lists partitions, issues tokens and tells of memory', async () => {
    const partitions = (await act('ListPartitions')).body['results'];
    assert.ok(partitions.vm.Runtime);
    const token = (await act('IssueAPIToken', { clientDN: 'CN=Alice, O=Grid', lifetime: 60 })).body;
    assert.deepEqual(token['results'], { token: 'token for CN=Alice,O=Grid' });
    const wrong = (await act('IssueAPIToken', { clientDN: 'CN=Alice', lifetime: 'long' })).body;
    assert.match(wrong['message'], /^lifetime: must be a number/);
    assert.ok((await act('GetMemoryUsage')).body['results'].rss > 0);
  });
});
