import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { formatDate } from '#kernel/clock.js';
import { Scope } from '#kernel/scope.js';
import {
  Base,
  Job,
  Reservation,
  ReservationDetails,
  ReservationList,
} from '#targetsystem/rest/answers.js';
import { noSlurm, startSlurm } from '../tsi/slurm-cluster.js';
import { until } from '../xnjs/job/rig.js';
import { idOf, startCompute, type Ask, type Body, type Compute } from './compute-rig.js';

const hour = 3_600_000;
const start = formatDate(Date.now() + hour);
const wish = { Resources: { TotalCPUs: '1', Runtime: '600' }, 'Start time': start };

describe('reservations by REST', { timeout: 60_000, skip: noSlurm }, () => {
  const scope = new Scope();
  let rig: Compute;
  let alice: Ask;
  let site = '';
  before(async () => {
    const { conf } = await startSlurm(scope);
    rig = await startCompute(scope, { agent: ['tsi.bss = slurm', `tsi.slurm_conf = ${conf}`] });
    alice = rig.as('alice');
    const partitions = { batch: { IsDefaultPartition: true, Resources: {} } };
    rig.images.add({ name: 'slurm', partitions });
    site = idOf(await alice('POST', '/sites', { image: 'slurm' }));
    await until(
      'it can reserve',
      async () => (await show(`/sites/${site}`))['supportsReservation'] === 'true',
    );
  });
  after(() => scope.close());

  const show = async (path: string): Promise<Body> => (await alice('GET', path)).body;
  const list = async (ask: Ask = alice, query = ''): Promise<string[]> =>
    ReservationList.parse((await ask('GET', `/reservations${query}`)).body).reservations;
  const refuses = async (body: object, status: number, text: RegExp): Promise<void> => {
    const answer = await alice('POST', '/reservations', body);
    assert.equal(answer.status, status, JSON.stringify(answer.body));
    assert.match(String(answer.body['errorMessage']), text);
    assert.deepEqual(await list(), []);
  };

  it('are named by the base resource, and supported where the batch system has them', async () => {
    const href = 'https://grid.example/TEST/rest/core/reservations';
    assert.equal(Base.parse(await show('/'))._links['reservations']!.href, href);
    const factory = '/factories/default_target_system_factory';
    assert.equal((await show(factory))['supportsReservation'], 'true');
    assert.equal((await rig.as('bob')('GET', factory)).body['supportsReservation'], 'false');
  });

  it('are made, shown, used by a job and cancelled', async () => {
    const id = idOf(await alice('POST', '/reservations', { ...wish, tags: ['t'] }));
    const self = `/reservations/${id}`;
    const shown = Reservation.parse(await show(self));
    const reference = shown.reservationID;
    assert.deepEqual(
      [shown.status, shown.resources, shown.startTime, shown.tags, shown.owner],
      ['WAITING', wish.Resources, start, ['t'], 'CN=Alice,O=Grid'],
    );
    assert.ok(shown._links['parentTSS']!.href.endsWith(`/sites/${site}`));
    const details = ReservationDetails.parse(await show(`${self}/details`));
    assert.match(details.rawDetailsData, new RegExp(reference));
    assert.equal((await list()).length, 1);
    assert.deepEqual(await list(alice, '?tags=u'), []);
    assert.deepEqual(await list(rig.as('bob')), []);
    assert.equal((await list(rig.as('admin'), '?filter=all')).length, 1);
    assert.equal((await rig.as('bob')('GET', self)).status, 403);
    assert.equal((await rig.as('bob')('DELETE', self)).status, 403);

    const job = { Executable: 'true', Resources: { Reservation: reference } };
    const jobId = idOf(await alice('POST', `/sites/${site}`, job));
    await until(
      'it waits in the reservation',
      async () => Job.parse(await show(`/jobs/${jobId}`)).status === 'QUEUED',
    );
    await until(
      'details are there',
      async () => (await show(`/jobs/${jobId}/details`))['Reservation'] === reference,
    );
    await alice('DELETE', `/jobs/${jobId}`);

    const gone = formatDate(Date.now() + 2 * hour);
    assert.deepEqual((await alice('PUT', self, { terminationTime: gone })).body, {
      terminationTime: 'OK',
    });
    assert.equal((await alice('DELETE', self)).status, 204);
    assert.equal((await alice('GET', self)).status, 404);
    assert.deepEqual(await list(), []);
  });

  it('live on over a restart, and end when their time is over', async () => {
    const id = idOf(await alice('POST', '/reservations', wish));
    rig = await rig.restart();
    alice = rig.as('alice');
    await until(
      'it is known',
      async () => (await show(`/reservations/${id}`))['status'] === 'WAITING',
    );
    rig.clock.advance(hour + 700_000);
    await until('it is over', async () => (await list()).length === 0);
  });

  it('are refused in clear words', async () => {
    await refuses({ ...wish, 'Start time': 'soon' }, 400, /^Start time: must be a date/);
    await refuses({ ...wish, Resources: { TotalCPUs: 99 } }, 400, /^Resources\.TotalCPUs: 99/);
    await refuses(
      { ...wish, 'Start time': '2020-01-01 00:00' },
      400,
      /^Start time: .* over by now/,
    );
    await refuses({ ...wish, targetSystem: 'nope' }, 404, /no target system nope/);
    await until('its agent answers', () => rig.systems.get(site).state === 'READY');
    await refuses({ ...wish, Resources: { Nodes: 2 } }, 400, /^Resources\.Nodes: 2 is outside 1-1/);
    const none = await rig.as('bob')('POST', '/reservations', wish);
    assert.equal(none.status, 409);
    assert.match(
      String(none.body['errorMessage']),
      /none of your target systems has a batch system/,
    );
    assert.equal((await rig.as('nobody')('POST', '/reservations', wish)).status, 401);
    const theirs = await rig.as('bob')('POST', '/reservations', { ...wish, targetSystem: site });
    assert.equal(theirs.status, 403);
  });
});

describe('reservations without a batch system', { timeout: 60_000 }, () => {
  const scope = new Scope();
  after(() => scope.close());

  it('are not supported, and refused in clear words', async () => {
    const rig = await startCompute(scope);
    const alice = rig.as('alice');
    const site = idOf(await alice('POST', '/sites', { image: 'plain' }));
    await until('it is ready', () => rig.systems.get(site).facts !== undefined);
    assert.equal((await alice('GET', `/sites/${site}`)).body['supportsReservation'], 'false');
    const answer = await alice('POST', '/reservations', { ...wish, targetSystem: site });
    assert.equal(answer.status, 409);
    assert.match(String(answer.body['errorMessage']), /refuses: .*Reservation not supported/);
    assert.deepEqual((await alice('GET', '/reservations')).body['reservations'], []);
  });
});
