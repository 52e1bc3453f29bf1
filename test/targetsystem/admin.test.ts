import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { Admin, AdminOutcome, Base, Site } from '#targetsystem/rest/answers.js';
import { HostList } from '#targetsystem/rest/answers-placement.js';
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
  /** What comes of one that succeeds. */
  const resultsOf = async (name: string, parameters: object = {}) => {
    const { success, results } = AdminOutcome.parse((await act(name, parameters)).body);
    assert.ok(success);
    return results;
  };
  const submission = async () => Base.parse((await alice('GET', '/')).body).server.jobSubmission;
  const wait = { haveClientStageIn: true };

  it('is for administrators alone', async () => {
    for (const name of ['alice', 'nobody']) {
      assert.equal((await rig.as(name)('GET', '/rest/admin')).status, 403);
      const path = '/rest/admin/actions/ToggleJobSubmission';
      assert.equal((await rig.as(name)('POST', path, {})).status, 403);
    }
  });

  it('shows how the service does, and every action with its description', async () => {
    const shown = Admin.parse((await admin('GET', '/rest/admin')).body);
    assert.deepEqual(shown.connectionStatus, { 'libvirt qemu': 'DOWN' });
    assert.equal(shown.subSystemsStatus['Job submission'], 'OK');
    assert.equal(shown.metrics['targetSystems.total'], 1);
    assert.equal(shown.containerVersion, '11.1.0');
    // those of the original (unicore-rest 3.18); it has no others that clients could miss
    for (const name of [
      ...['ToggleJobSubmission', 'ShowServerUsageOverview', 'ShowJobDetails', 'AbortJob'],
      ...['ListPartitions', 'IssueAPIToken', 'ResourceAvailability', 'GetMemoryUsage'],
    ]) {
      const link = shown._links[`action:${name}`]!;
      assert.equal(link.href, `https://grid.example/TEST/rest/admin/actions/${name}`);
      assert.ok(link.description!.length > 10);
    }
    const some = (await admin('GET', '/rest/admin?fields=upSince')).body;
    assert.deepEqual(Object.keys(some), ['upSince']);
    assert.equal((await act('Nothing')).status, 404);
    assert.equal((await act('constructor')).status, 404);
  });

  it('shows the hosts, and what their machines hold', async () => {
    assert.equal((await alice('GET', '/rest/admin/hosts')).status, 403);
    const { hosts } = HostList.parse((await admin('GET', '/rest/admin/hosts')).body);
    const memoryMiB = rig.systems.get(site).parameters.memoryMiB;
    const [{ abilities, ...host } = {}, ...others] = hosts;
    assert.ok(abilities?.spares && abilities.thaw === 'anywhere');
    assert.deepEqual(
      [host, ...others],
      [
        {
          ...{ name: 'local', drivers: { qemu: 'OK' }, labels: [], drained: false, capacity: {} },
          ...{
            used: { cores: 2, memoryMiB, diskMiB: 0 },
            machines: 1,
            spares: { ready: 0, all: 0 },
          },
        },
      ],
    );
    assert.equal(Site.parse((await alice('GET', `/sites/${site}`)).body).vm.host, 'local');
  });

  it('tells what is available, and how many hosts take machines', async () => {
    const told = AdminOutcome.parse((await act('ResourceAvailability')).body);
    assert.equal(told.message, '1 of 1 hosts take machines');
    const { hosts } = HostList.parse((await admin('GET', '/rest/admin/hosts')).body);
    assert.deepEqual(told.results, { local: hosts[0] });
    await act('DrainHost', { host: 'local' });
    const drained = await act('ResourceAvailability', { host: 'local' });
    assert.equal(drained.body['message'], '0 of 1 hosts take machines');
    await act('DrainHost', { host: 'local', drain: false });
    const none = await act('ResourceAvailability', { host: 'south' });
    assert.deepEqual(
      [none.body['success'], none.body['message']],
      [false, 'host: there is no host south'],
    );
  });

  it('lets a host take no new machines; those that are there stay', async () => {
    const wanted = (): Promise<{ status: number; body: Record<string, unknown> }> =>
      alice('POST', '/sites?dryRun=true', { image: 'plain' });
    assert.ok(AdminOutcome.parse((await act('DrainHost', { host: 'local' })).body).success);
    const refused = await wanted();
    assert.equal(refused.status, 429);
    assert.match(String(refused.body['errorMessage']), /local: it is drained/);
    assert.equal(rig.systems.list().length, 1);
    await act('DrainHost', { host: 'local', drain: false });
    assert.equal((await wanted()).status, 200);
    for (const [parameters, text] of [
      [{ host: 'south' }, /no host south; there are local/],
      [{ host: 'local', drain: 'maybe' }, /^drain: must be/],
      [{}, /^host: must be given/],
    ] as const) {
      const { success, message } = AdminOutcome.parse((await act('DrainHost', parameters)).body);
      assert.equal(success, false);
      assert.match(message, text);
    }
  });

  it('declares no host lost that answers, nor one whose name was not repeated', async () => {
    for (const [parameters, text] of [
      [{ host: 'local' }, /^confirm: must be given/],
      [{ host: 'local', confirm: 'north' }, /^confirm: must be local/],
      [{ host: 'local', confirm: 'local' }, /^host: local is the server's own/],
      [{ host: 'south', confirm: 'south' }, /there is no host south/],
      [{ host: 'south', confirm: 'south', lost: 'maybe' }, /^lost: must be/],
      [{ host: 'south', confirm: 'south', lost: false }, /south was not declared lost/],
    ] as const) {
      const told = AdminOutcome.parse((await act('DeclareHostLost', parameters)).body);
      assert.equal(told.success, false);
      assert.match(told.message, text);
    }
    assert.equal((await alice('POST', '/rest/admin/actions/DeclareHostLost', {})).status, 403);
  });

  it('stops taking jobs with a message, which a restart does not forget', async () => {
    const stopped = await act('ToggleJobSubmission', { message: 'maintenance until noon' });
    assert.deepEqual(stopped.body['success'], true);
    rig = await rig.restart();
    [admin, alice] = [rig.as('admin'), rig.as('alice')];
    assert.deepEqual(await submission(), {
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
    assert.deepEqual(await submission(), { enabled: true, message: '' });
    assert.equal((await alice('POST', '/jobs', wait)).status, 201);
  });

  it('shows who uses the server how much, lists jobs by user, shows one and ends it', async () => {
    const usage = await resultsOf('ShowServerUsageOverview', { clientDN: 'ALICE' });
    assert.deepEqual(usage['CN=Alice,O=Grid'], {
      jobs: 1,
      unfinishedJobs: 1,
      targetSystems: 1,
      cpus: 2,
      memoryMiB: 384,
    });
    assert.deepEqual(await resultsOf('ShowServerUsageOverview', { clientDN: 'bob' }), {});
    const listed = await resultsOf('ListJobs', { clientDN: 'CN=Alice, O=Grid' });
    const [[url, state]] = Object.entries(listed) as [[string, string]];
    assert.match(state, /CN=Alice,O=Grid$/);
    const jobID = url.split('/').at(-1)!;
    const shown = await resultsOf('ShowJobDetails', { jobID });
    assert.equal(shown['ownerDn'], 'CN=Alice,O=Grid');
    assert.equal((await act('AbortJob', { jobID })).body['success'], true);
    await until('it is over', async () => (await rig.jobs.get(jobID)).state === 'DONE');
    assert.equal((await act('AbortJob', { jobID, cleanup: 'true' })).body['success'], true);
    assert.equal((await alice('GET', `/jobs/${jobID}`)).status, 404);
    const gone = (await act('ShowJobDetails', { jobID })).body;
    assert.deepEqual([gone['success'], gone['message']], [false, `there is no job ${jobID}`]);
    assert.match(String((await act('AbortJob')).body['message']), /^jobID: must be given/);
  });

  it('lists partitions, issues tokens and tells of memory', async () => {
    const partitions = Site.shape.resources.parse(await resultsOf('ListPartitions'));
    assert.ok(partitions['vm']?.['Runtime']);
    const token = await resultsOf('IssueAPIToken', { clientDN: 'CN=Alice, O=Grid', lifetime: 60 });
    assert.deepEqual(token, { token: 'token for CN=Alice,O=Grid' });
    const wrong = (await act('IssueAPIToken', { clientDN: 'CN=Alice', lifetime: 'long' })).body;
    assert.match(String(wrong['message']), /^lifetime: must be a number/);
    assert.ok(Number((await resultsOf('GetMemoryUsage'))['rss']) > 0);
  });
});
