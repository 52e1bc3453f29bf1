import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { JobList, Site, SiteList } from '#targetsystem/rest/answers.js';
import { Snapshot, SnapshotList } from '#targetsystem/rest/answers-snapshots.js';
import { until } from '../xnjs/job/rig.js';
import { idOf, startCompute, type Ask, type Compute } from './compute-rig.js';

const day = 86_400_000;
const factory = '/factories/default_target_system_factory';

describe('target systems by REST', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let rig: Compute;
  let alice: Ask;
  let bob: Ask;
  let admin: Ask;
  before(async () => {
    const limits = { lifetimeSeconds: 86_400, maxLifetimeSeconds: 10 * 86_400 };
    const jobs = { lifetimeSeconds: 86_400, maxLifetimeSeconds: 2 * 86_400, reaperIntervalMs: 20 };
    rig = await startCompute(scope, { limits, jobs });
    [alice, bob, admin] = [rig.as('alice'), rig.as('bob'), rig.as('admin')];
  });
  after(() => scope.close());

  const date = (ms: number): string => `${new Date(ms).toISOString().slice(0, 19)}+0000`;
  const made = async (body: object, path = factory): Promise<string> =>
    idOf(await alice('POST', path, { image: 'plain', ...body }));
  async function removed(...ids: string[]): Promise<void> {
    for (const id of ids) await admin('DELETE', `/sites/${id}`);
    await until('sites are gone', () => rig.systems.list().every(({ id }) => !ids.includes(id)));
  }

  const sizes = [
    ['ours', { parameters: { cpus: '2', memoryMiB: 512 } }],
    ["UNICORE's, as resources", { resources: { CPUs: 2, Memory: '512M' } }],
    ["UNICORE's, as parameters", { parameters: { TotalCPUs: '2', MemoryPerNode: 536870912 } }],
    [
      'both, where they agree',
      { parameters: { cpus: 2 }, resources: { CPUsPerNode: 2, Memory: '512m' } },
    ],
  ] as const;
  for (const [what, body] of sizes)
    it(`have the size that is asked for in the names that are ${what}`, async () => {
      const id = await made(body, what === 'ours' ? '/sites' : factory);
      assert.deepEqual(rig.systems.get(id).parameters, { cpus: 2, memoryMiB: 512 });
      await removed(id);
    });

  const refused: readonly (readonly [string, object, RegExp])[] = [
    [
      'more processors than there are',
      { resources: { CPUs: 5 } },
      /^resources\.CPUs: 5 is outside 1-4/,
    ],
    [
      'too little memory',
      { resources: { Memory: '1M' } },
      /^resources\.Memory: 1 MiB is outside 320-4096/,
    ],
    [
      'a size in words',
      { resources: { Memory: '1GB' } },
      /^resources\.Memory: must be a whole number of bytes/,
    ],
    [
      'names that contradict each other',
      { parameters: { cpus: 1 }, resources: { CPUs: 2 } },
      /^resources\.CPUs: 2 contradicts parameters\.cpus, 1/,
    ],
    ['two machines', { resources: { Nodes: 2 } }, /^resources\.Nodes: 2 is not 1/],
    [
      'what no machine has',
      { resources: { Licence: 'gold' } },
      /^resources\.Licence: is not known/,
    ],
    [
      'a life that is too long',
      { terminationTime: date(Date.now() + 11 * day) },
      /^terminationTime: must not be later/,
    ],
    [
      'two ends',
      { terminationTime: '18:00', resources: { Runtime: '1h' } },
      /^resources\.Runtime: terminationTime says/,
    ],
  ];
  for (const [what, body, text] of refused)
    it(`are refused with ${what}`, async () => {
      const answer = await alice('POST', factory, { image: 'plain', ...body });
      assert.equal(answer.status, 400);
      assert.match(String(answer.body['errorMessage']), text);
      assert.deepEqual(rig.systems.list(), []);
    });

  it('show what they are made from, where they are and how they came up', async () => {
    const id = await made({ tags: ['a', 'b'] });
    await until('it is ready', () => rig.systems.get(id).state === 'READY');
    const shown = Site.parse((await alice('GET', `/sites/${id}`)).body);
    assert.deepEqual(shown.image.digests, {
      initrd: `sha256:${'a'.repeat(64)}`,
      kernel: `sha256:${'a'.repeat(64)}`,
    });
    const { state, evidence, boot, transport, addresses } = shown.vm;
    assert.deepEqual(
      [state, evidence.source, transport, addresses],
      ['READY', 'agent', 'channel', []],
    );
    assert.ok(boot['readyMs']! > 0);
    const starts = shown.vm.starts.map(({ what, marks }) => [what, marks]);
    assert.deepEqual(starts, [['creation', boot]]);
    const agent = shown.vm.views?.find(({ source }) => source === 'agent');
    assert.equal(agent?.says, 'up');
    assert.ok(Date.parse(agent.confirmed) >= Date.parse(agent.since));
    assert.equal(typeof shown.numberOfJobs, 'number');
    assert.equal(shown.supportsReservation, 'false');
    const two = (await alice('GET', `/sites/${id}?fields=tags,_links`)).body;
    assert.deepEqual(Object.keys(two).sort(), ['_links', 'tags']);
    const without = (await alice('GET', `/sites/${id}?fields=!vm`)).body;
    assert.equal(without['vm'], undefined);
    assert.equal(without['owner'], 'CN=Alice,O=Grid');
    assert.equal((await bob('GET', `/sites/${id}`)).status, 403);
    await removed(id);
  });

  it('are parked only once they are ready, and by their owner; recovery is one of two', async () => {
    const id = await made({});
    const early = await alice('POST', `/sites/${id}/actions/freeze`, {});
    assert.ok(early.status === 409 || rig.systems.get(id).state !== 'INITIALIZING');
    await until('it is there', () => rig.systems.get(id).state !== 'INITIALIZING');
    assert.equal((await bob('POST', `/sites/${id}/actions/freeze`, {})).status, 403);
    assert.equal((await bob('POST', `/sites/${id}/actions/thaw`, {})).status, 403);
    const put = (recovery: unknown) => alice('PUT', `/sites/${id}`, { recovery });
    assert.match(String((await put('always')).body['recovery']), /^Error setting property/);
    assert.deepEqual((await put('restart')).body, { recovery: 'OK' });
    const { vm } = Site.parse((await alice('GET', `/sites/${id}`)).body);
    assert.deepEqual([vm.recovery, vm.generation], ['restart', 1]);
    assert.equal((await alice('POST', `/sites/${id}/actions/freeze`, {})).status, 204);
    await until('it is parked', () => rig.systems.get(id).state === 'SUSPENDED');
    const { resourceStatus } = Site.parse((await alice('GET', `/sites/${id}`)).body);
    assert.equal(resourceStatus, 'DISABLED');
    assert.equal((await alice('POST', `/sites/${id}/actions/thaw`, {})).status, 204);
    await until('it is back', () => rig.systems.get(id).state === 'READY');
    await removed(id);
  });

  it('are kept as snapshots, as many as the site allows, and shown to whom they are shown', async () => {
    const id = await made({});
    await until('it is ready', () => rig.systems.get(id).state === 'READY');
    const path = `/sites/${id}/snapshots`;
    const taken: string[] = [];
    for (const name of ['one', undefined, 'three', 'four']) {
      const answer = await alice('POST', path, { ...(name !== undefined && { name }) });
      assert.equal(answer.status, 201);
      taken.push(idOf(answer));
      await until('it is complete', async () => {
        const { state } = Snapshot.parse((await alice('GET', `${path}/${taken.at(-1)}`)).body);
        return state === 'READY' && rig.systems.get(id).state === 'READY';
      });
    }
    const first = Snapshot.parse((await alice('GET', `${path}/${taken[0]}`)).body);
    assert.equal(first.name, 'one');
    assert.ok(Date.parse(first.takenTime!) >= Date.parse(first.submissionTime));
    const more = await alice('POST', path, {});
    assert.equal(more.status, 429);
    assert.match(String(more.body['errorMessage']), /limit of 4 snapshots/);
    assert.equal((await alice('POST', path, { name: '' })).status, 400);
    assert.equal((await alice('DELETE', `${path}/${taken[1]}`)).status, 204);
    assert.equal((await alice('GET', `${path}/${taken[1]}`)).status, 404);
    const { snapshots } = SnapshotList.parse((await alice('GET', path)).body);
    assert.deepEqual(
      snapshots.map((url) => url.split('/').at(-1)),
      [taken[0], taken[2], taken[3]],
    );
    assert.equal((await bob('GET', path)).status, 403);
    const image = await alice('POST', `/sites/${id}/actions/save-image`, { version: '2' });
    assert.equal(image.status, 409);
    assert.match(String(image.body['errorMessage']), /has no disk \(format kernel\)/);
    await removed(id);
  });

  it('are asked for with what is to be done at their end, when nobody uses them and when their machine stops', async () => {
    const ends = {
      endAction: 'freeze',
      idleSeconds: 600,
      idleAction: 'destroy',
      recovery: 'restart',
    };
    const id = await made(ends);
    const { vm } = Site.parse((await alice('GET', `/sites/${id}`)).body);
    assert.deepEqual(
      [vm.endAction, vm.idle, vm.recovery],
      ['freeze', { seconds: 600, action: 'destroy' }, 'restart'],
    );
    for (const [name, value] of [
      ['endAction', 'sleep'],
      ['idleSeconds', 0],
      ['idleSeconds', 1e9],
      ['idleAction', true],
      ['recovery', 'hope'],
    ] as const) {
      const { status, body } = await alice('POST', '/sites', { image: 'plain', [name]: value });
      assert.equal(status, 400);
      assert.match(String(body['errorMessage']), RegExp(name));
    }
    await removed(id);
  });

  it('are parked at the end of their life time where their owners wish so, and then not brought back without another', async () => {
    const id = await made({});
    await until('it is ready', () => rig.systems.get(id).state === 'READY');
    const put = async (members: object) => (await alice('PUT', `/sites/${id}`, members)).body;
    assert.deepEqual(await put({ endAction: 'freeze', idleSeconds: 600, idleAction: 'freeze' }), {
      ...{ endAction: 'OK', idleSeconds: 'OK', idleAction: 'OK' },
    });
    assert.match(String((await put({ idleSeconds: 0 }))['idleSeconds']), /^Error setting property/);
    const { vm } = Site.parse((await alice('GET', `/sites/${id}`)).body);
    assert.deepEqual([vm.endAction, vm.idle], ['freeze', { seconds: 600, action: 'freeze' }]);
    await put({ terminationTime: date(rig.clock.now() + 3_000) });
    rig.clock.advance(4_000);
    await until('it is parked', () => rig.systems.get(id).state === 'SUSPENDED');
    assert.match(rig.systems.get(id).evidence.fact, /parked/);
    const early = await alice('POST', `/sites/${id}/actions/thaw`, {});
    assert.equal(early.status, 409);
    assert.match(String(early.body['errorMessage']), /give it a later terminationTime first/);
    await put({ terminationTime: date(rig.clock.now() + 3_600_000) });
    const endMs = rig.systems.get(id).terminationMs!;
    assert.equal((await alice('POST', `/sites/${id}/actions/thaw`, {})).status, 204);
    await until('it is back', () => rig.systems.get(id).state === 'READY');
    const putOffMs = rig.systems.get(id).terminationMs! - endMs;
    assert.ok(putOffMs >= 0 && putOffMs < 60_000, `by the time since it was named: ${putOffMs}`);
    await removed(id);
  });

  it('are parked for maintenance by an administrator, who alone brings them back', async () => {
    const id = await made({});
    await until('it is ready', () => rig.systems.get(id).state === 'READY');
    const act = async (name: string, parameters: object = {}) =>
      (await rig.as('admin')('POST', `/rest/admin/actions/${name}`, parameters)).body;
    for (const [parameters, message] of [
      [{ hosts: 'local' }, 'hosts: is no parameter of FreezeTargetSystems; it has host'],
      [{ host: 'nroth' }, 'there is no host nroth; there are local'],
    ] as const)
      for (const name of ['FreezeTargetSystems', 'ThawTargetSystems'])
        assert.deepEqual(await act(name, parameters), {
          ...{ success: false, results: {} },
          message: message.replace('FreezeTargetSystems', name),
        });
    assert.equal(rig.systems.get(id).desired, undefined, 'nothing is parked by what was refused');
    const frozen = await act('FreezeTargetSystems', { host: 'local' });
    const { results } = frozen as { results: Record<string, string> };
    assert.equal(results[id], 'is being parked');
    await until('it is parked', () => rig.systems.get(id).state === 'SUSPENDED');
    const { status, body } = await alice('POST', `/sites/${id}/actions/thaw`, {});
    assert.equal(status, 409);
    assert.match(String(body['errorMessage']), /while its host is maintained/);
    await act('ThawTargetSystems');
    await until('it is back', () => rig.systems.get(id).state === 'READY');
    assert.equal(rig.systems.get(id).isMaintained, undefined);
    await removed(id);
  });

  it('are listed to their owner by pages and tags, and all of them to an administrator who asks', async () => {
    const mine = [await made({ tags: ['a'] }), await made({ tags: ['a', 'b'] })];
    const bobs = idOf(await bob('POST', '/sites', { image: 'plain' }));
    const ids = async (ask: Ask, query: string) =>
      SiteList.parse((await ask('GET', `/sites${query}`)).body).sites.map((url) =>
        url.split('/').at(-1)!,
      );
    assert.deepEqual((await ids(alice, '')).sort(), [...mine].sort());
    assert.deepEqual(await ids(alice, '?tags=a,b'), [mine[1]]);
    assert.equal((await ids(alice, '?num=1&offset=1')).length, 1);
    assert.deepEqual(await ids(alice, '?offset=9'), []);
    assert.deepEqual((await ids(alice, '?filter=all')).length, 2);
    assert.deepEqual(await ids(admin, ''), []);
    assert.deepEqual((await ids(admin, '?filter=all')).sort(), [...mine, bobs].sort());
    await removed(...mine, bobs);
  });

  it('end at the time that was chosen for them, unless that is put off', async () => {
    const [first, second] = [await made({}), await made({ resources: { Runtime: '1d' } })];
    const shown = async (id: string) =>
      Date.parse(Site.parse((await alice('GET', `/sites/${id}`)).body).terminationTime!);
    for (const id of [first, second])
      assert.ok(Math.abs((await shown(id)) - rig.clock.now() - day) < 10_000);
    const answers = await alice('PUT', `/sites/${second}`, {
      terminationTime: date(rig.clock.now() + 3 * day),
      tags: 'x,y',
      umask: '022',
    });
    assert.deepEqual(answers.body, {
      terminationTime: 'OK',
      tags: 'OK',
      umask: 'Property not found or cannot be modified!',
    });
    const late = { terminationTime: date(rig.clock.now() + 11 * day) };
    const refusal = (await alice('PUT', `/sites/${second}`, late)).body['terminationTime'];
    assert.match(String(refusal), /^Error setting property: must not be later than/);
    rig.clock.advance(day + 1_000);
    await until('the first is gone', () => rig.systems.list().every(({ id }) => id !== first));
    assert.equal((await alice('GET', `/sites/${second}`)).status, 200);
    rig.clock.advance(2 * day);
    await until('the second is gone', () => rig.systems.list().length === 0);
    assert.equal((await alice('GET', `/sites/${second}`)).status, 404);
  });

  it('has jobs that end likewise, and are listed to administrators', async () => {
    const site = await made({ terminationTime: date(rig.clock.now() + 9 * day) });
    const submit = async () =>
      idOf(await alice('POST', `/sites/${site}`, { haveClientStageIn: true }));
    const [first, second] = [await submit(), await submit()];
    const listed = async (ask: Ask, query = '') =>
      JobList.parse((await ask('GET', `/jobs${query}`)).body).jobs.length;
    assert.equal(await listed(admin), 0);
    assert.equal(await listed(admin, '?filter=all'), 2);
    assert.equal(await listed(bob, '?filter=all'), 0);
    const extended = { terminationTime: date(rig.clock.now() + 2 * day - 5_000) };
    assert.deepEqual((await alice('PUT', `/jobs/${second}`, extended)).body, {
      terminationTime: 'OK',
    });
    const late = { terminationTime: date(rig.clock.now() + 3 * day) };
    assert.match(
      String((await alice('PUT', `/jobs/${second}`, late)).body['terminationTime']),
      /^Error setting property: must not be later/,
    );
    rig.clock.advance(day + 1_000);
    await until(
      'the first is gone',
      async () => (await alice('GET', `/jobs/${first}`)).status === 404,
    );
    assert.equal((await alice('GET', `/jobs/${second}`)).status, 200);
    rig.clock.advance(day);
    await until(
      'the second is gone',
      async () => (await alice('GET', `/jobs/${second}`)).status === 404,
    );
    await removed(site);
  });
});
