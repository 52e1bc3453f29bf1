import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { Job, Site } from '#targetsystem/rest/answers.js';
import { Factory, Plan } from '#targetsystem/rest/answers-placement.js';
import { until } from '../xnjs/job/rig.js';
import { idOf, startCompute, type Ask, type Compute } from './compute-rig.js';

const factory = '/factories/default_target_system_factory';
const hello = { Name: 'Hello', Version: '2.1', Executable: 'echo', Arguments: ['hello'] };

/** As an operator would write them. */
const targetSystems = {
  limits: { cpus: 16, memoryMiB: 8192, perUser: 50, maxLifetimeSeconds: 86_400 },
  flavours: {
    small: { description: 'One core', cpus: 1, memoryMiB: 512, lifetimeSeconds: 3_600 },
    large: {
      cpus: { min: 2, default: 4, max: 4 },
      memoryMiB: { default: 1_024, max: 4_096 },
      cpuQuotaPercent: 200,
      limits: [
        { vos: ['/astro'], cpus: 8 },
        { roles: ['admin'], cpus: 16, memoryMiB: 8_192 },
      ],
    },
    huge: { roles: ['admin'], vos: ['/bio'], cpus: 16, memoryMiB: 8_192 },
  },
  defaultFlavour: 'small',
  quota: {
    site: { cpus: 20 },
    user: { cpus: 6, targetSystems: 3 },
    users: { 'cn=Bob, o=Grid': { cpus: 8 }, 'CN=Dave,O=Grid': { cpus: 16 } },
    vos: { '/astro': { memoryMiB: 3_800 } },
    groups: { physics: { memoryMiB: 1_500 } },
  },
  prices: { currency: 'EUR', coreHour: 0.02, memoryGiBHour: 0.01 },
};

describe('what users may have of a site', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let rig: Compute;
  let alice: Ask;
  let bob: Ask;
  let admin: Ask;
  before(async () => {
    rig = await startCompute(scope, { targetSystems, jobs: { reaperIntervalMs: 20 } });
    [alice, bob, admin] = [rig.as('alice'), rig.as('bob'), rig.as('admin')];
    rig.images.add({
      name: 'wide',
      applications: [hello],
      requirements: {
        cpus: { min: 1, default: 2, max: 32 },
        memoryMiB: { min: 256, default: 700, max: 16_384 },
      },
    });
    const disk = rig.images.add({ name: 'disk', format: 'qcow2' });
    disk.parts.disk!.virtualBytes = 2 * 1024 ** 3 - 1;
  });
  after(() => scope.close());

  const made = async (body: object, ask = alice): Promise<string> =>
    idOf(await ask('POST', factory, { image: 'wide', ...body }));
  const parametersOf = (id: string) => rig.systems.get(id).parameters;
  async function removeAll(): Promise<void> {
    for (const { id } of rig.systems.list()) await admin('DELETE', `/sites/${id}`);
    await until('all are gone', () => rig.systems.list().length === 0);
  }
  async function refused(ask: Ask, body: object, status: number, text: RegExp): Promise<void> {
    const answer = await ask('POST', factory, { image: 'wide', ...body });
    assert.equal(answer.status, status, JSON.stringify(answer.body));
    assert.match(String(answer.body['errorMessage']), text);
  }

  it('is the default flavour where none is named, by whatever way', async () => {
    const id = await made({});
    const { flavour, terminationMs } = rig.systems.get(id);
    assert.deepEqual([flavour, parametersOf(id)], ['small', { cpus: 1, memoryMiB: 512 }]);
    assert.ok(Math.abs(terminationMs! - rig.clock.now() - 3_600_000) < 10_000);
    const job = idOf(await alice('POST', '/jobs', { Image: 'wide' }));
    const ofJob = rig.systems.list().find(({ jobId }) => jobId === job);
    assert.equal(ofJob?.flavour, 'small');
    await removeAll();
  });

  it('is what the flavour says, and what is asked for within its limits', async () => {
    const large = await made({ flavour: 'large' });
    const controls = { cpuQuotaPercent: 200 };
    assert.deepEqual(parametersOf(large), { cpus: 4, memoryMiB: 1_024, ...controls });
    const shown = Site.parse((await alice('GET', `/sites/${large}`)).body);
    assert.equal(shown.flavour, 'large');
    await removeAll();
    const asked = { parameters: { flavour: 'large', cpus: 2, memoryMiB: 4_096 } };
    const own = await made(asked);
    assert.deepEqual(parametersOf(own), { cpus: 2, memoryMiB: 4_096, ...controls });
    const change = { parameters: { cpuQuotaPercent: null } };
    assert.deepEqual((await alice('PUT', `/sites/${own}`, change)).body, { parameters: 'OK' });
    assert.equal(parametersOf(own).cpuQuotaPercent, 200, 'the limit of its flavour');
    const later = new Date(rig.clock.now() + 86_000_000).toISOString().slice(0, 19) + '+0000';
    await refused(alice, { flavour: 'large', parameters: { cpus: 5 } }, 400, /cpus: 5 is outside 2-4.*large/); // prettier-ignore
    await refused(alice, { flavour: 'small', terminationTime: later }, 400, /terminationTime: must not be later/); // prettier-ignore
    await refused(alice, { flavour: 'large', parameters: { cpus: 1 } }, 400, /1 is outside 2-4/);
    await refused(alice, { flavour: 'none' }, 400, /there is no "none"; yours are small, large/);
    await refused(alice, { flavour: 'huge' }, 403, /huge is for others; yours are small, large/);
    await removeAll();
  });

  it('differs by role and virtual organisation, and the factory shows it', async () => {
    const shown = async (who: string) => Factory.parse((await rig.as(who)('GET', factory)).body);
    const most = async (who: string) =>
      Object.fromEntries((await shown(who)).flavours.map(({ name, cpus }) => [name, cpus.max]));
    assert.deepEqual(await most('alice'), { small: 1, large: 4 });
    assert.deepEqual(await most('carol'), { small: 1, large: 8 });
    assert.deepEqual(await most('admin'), { small: 1, large: 16, huge: 16 });
    const [small] = (await shown('alice')).flavours;
    assert.deepEqual([small?.default, small?.description], [true, 'One core']);
    assert.deepEqual((await shown('alice')).prices?.currency, 'EUR');
    const id = await made({ flavour: 'large', parameters: { cpus: 6 } }, rig.as('carol'));
    assert.deepEqual(rig.systems.get(id).countsFor, { vo: '/astro' });
    const [, ofVo] = (await shown('carol')).quota!;
    assert.deepEqual([ofVo?.kind, ofVo?.name, ofVo?.used.memoryMiB], ['vo', '/astro', 1_024]);
    assert.deepEqual(ofVo?.allowed, { memoryMiB: 3_800 });
    await removeAll();
    // whoever is in several organisations and says as whose member he comes
    const erin = rig.as('erin');
    await refused(erin, { flavour: 'huge' }, 403, /yours are small, large/);
    const ofErin = await made({ flavour: 'large', parameters: { cpus: 6 } }, erin);
    assert.deepEqual(rig.systems.get(ofErin).countsFor, { vo: '/astro', group: 'physics' });
    const ofStranger = (await rig.as('stranger')('GET', factory)).body;
    assert.equal(ofStranger['quota'], undefined);
    await removeAll();
  });

  it('ends at the quota of the user, of his organisation and of the site', async () => {
    await made({ flavour: 'large' });
    const told = /quota of the user CN=Alice,O=Grid.*: cpus: 4 used, 4 asked for, 6 allowed$/;
    await refused(alice, { flavour: 'large' }, 429, told);
    const job = await alice('POST', '/jobs', { Image: 'wide', Flavour: 'large' });
    assert.equal(job.status, 429, 'machines of jobs count');
    await made({ flavour: 'large' }, bob); // 8 are his
    await made({ flavour: 'large' }, bob);
    const carol = rig.as('carol');
    const wish = { flavour: 'large', parameters: { cpus: 2, memoryMiB: 2_000 } };
    await made(wish, carol);
    await refused(carol, wish, 429, /organisation \/astro.*memoryMiB: 2000 used, 2000 asked for, 3800/); // prettier-ignore
    const two = { flavour: 'large', parameters: { cpus: 2, memoryMiB: 900 } };
    const erin = rig.as('erin');
    const hers = await made(two, erin);
    await refused(erin, two, 429, /the group physics.*memoryMiB: 900 used, 900 asked for, 1500/);
    await erin('DELETE', `/sites/${hers}`);
    await until('hers is gone', () => rig.systems.list().every(({ id }) => id !== hers));
    const full = { flavour: 'huge', parameters: { memoryMiB: 512 } };
    await refused(rig.as('dave'), full, 429, /this site.*cpus: 14 used, 16 asked for, 20 allowed/);
    await removeAll();
    await made({ flavour: 'large' });
    await removeAll();
  });

  it('is not exceeded by those who ask at once', async () => {
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => alice('POST', '/sites', { image: 'wide' })),
    );
    const statuses = answers.map(({ status }) => status).sort();
    assert.deepEqual(statuses, [201, 201, 201, 429, 429, 429, 429, 429]);
    await removeAll();
  });

  it('has a disk of its own as large as is asked for, where the image has one', async () => {
    const plan = async (body: object) =>
      await admin('POST', `${factory}?dryRun=true`, { flavour: 'large', ...body });
    const disk = Plan.parse((await plan({ image: 'disk' })).body);
    assert.equal(disk.parameters['diskMiB'], 2_048);
    assert.equal(disk.quota[0]?.used.diskMiB, 2_048);
    const none = await plan({ image: 'wide', parameters: { diskMiB: 4_096 } });
    assert.match(String(none.body['errorMessage']), /parameters\.diskMiB: the image has no disk/);
    const more = await plan({ image: 'disk', parameters: { diskMiB: 4_096 } });
    assert.match(String(more.body['errorMessage']), /diskMiB: 4096 MiB is outside 2048-2048/);
  });

  describe('before it is made', () => {
    const dry = async (body: object, ask = alice, path = factory) =>
      await ask('POST', `${path}?dryRun=true`, body);
    const nothingIsMade = (): void => assert.deepEqual(rig.systems.list(), []);

    it('is told with its cost and what is left of the quota', async () => {
      const body = { image: 'wide', flavour: 'large', resources: { CPUs: 3, Runtime: '10h' } };
      for (const path of [factory, '/sites']) {
        const answer = await dry(body, alice, path);
        assert.equal(answer.status, 200);
        const plan = Plan.parse(answer.body);
        assert.deepEqual([plan.driver, plan.flavour, plan.image.name], ['qemu', 'large', 'wide']);
        assert.match(plan.image.why, /was asked for/);
        assert.deepEqual(plan.parameters, { cpus: 3, memoryMiB: 1_024, cpuQuotaPercent: 200 });
        const { total, perHour, currency } = plan.cost;
        assert.ok(Math.abs(total!.hours - 10) < 0.01);
        assert.ok(Math.abs(total!.coreHours - 30) < 0.03);
        assert.ok(Math.abs(total!.price! - 0.7) < 0.001); // 30 x 0.02 + 10 x 0.01
        assert.deepEqual([perHour.coreHours, perHour.price, currency], [3, 0.07, 'EUR']);
        const [user, site] = plan.quota;
        assert.deepEqual([user?.used.cpus, user?.allowed.cpus], [3, 6]);
        assert.deepEqual([site?.kind, site?.used.targetSystems], ['site', 1]);
      }
      nothingIsMade();
    });

    it('is refused as it would be', async () => {
      const large = { image: 'wide', flavour: 'large' };
      const answers = [
        await dry({ image: 'none' }),
        await dry({ image: 'wide', flavour: 'huge' }),
        await dry({ image: 'wide', parameters: { cpus: 2 } }),
        await dry({ ...large, parameters: { memoryMiB: 4_000 } }, rig.as('carol')),
        await alice('POST', '/jobs?dryRun=true', { Executable: 'date' }),
        await alice('POST', '/jobs?dryRun=perhaps', { Image: 'wide' }),
        await alice('POST', '/jobs', { Executable: 'date', Flavour: 'small' }),
      ];
      assert.deepEqual(
        answers.map(({ status }) => status),
        [404, 403, 400, 429, 400, 400, 400],
      );
      nothingIsMade();
    });

    it('tells how long earlier starts of the image took', async () => {
      const plan = async () => Plan.parse((await dry({ image: 'plain' })).body).expectedWait;
      assert.deepEqual(await plan(), []);
      const id = idOf(await alice('POST', '/sites', { image: 'plain' }));
      await until('its start is noted', async () => (await plan()).length > 0);
      const [wait] = await plan();
      const { readyMs } = rig.systems.get(id).boot;
      assert.deepEqual(wait, {
        ...{ tier: 'cold', starts: 1 },
        ...{ p50Seconds: readyMs! / 1_000, p90Seconds: readyMs! / 1_000 },
      });
      await removeAll();
    });

    it('is told of the machine of a job', async () => {
      const job = { ApplicationName: 'Hello', Resources: { CPUs: 4, Image: {}, Flavour: 'large' } };
      const plan = Plan.parse((await dry(job, alice, '/jobs')).body);
      assert.equal(plan.image.name, 'wide');
      assert.match(plan.image.why, /it has Hello 2\.1, it is the only one that fits/);
      assert.deepEqual([plan.parameters.cpus, plan.flavour], [4, 'large']);
      assert.equal(plan.terminationTime, undefined);
      nothingIsMade();
      const there = await made({});
      const sent = await dry({ ...job, Resources: { Image: 'wide' } }, alice, `/sites/${there}`);
      assert.equal(sent.status, 409);
      assert.match(String(sent.body['errorMessage']), /no machine is needed: target system/);
      await removeAll();
      const id = idOf(await alice('POST', '/jobs', { ...job, dryRun: false }));
      await until('it has run', async () => {
        const { status, statusMessage } = Job.parse((await alice('GET', `/jobs/${id}`)).body);
        assert.notEqual(status, 'FAILED', statusMessage);
        return status === 'SUCCESSFUL';
      });
      await removeAll();
    });
  });

  it('is on a host that has what is asked for, else refused by the name of the field', async () => {
    for (const [body, field] of [
      [{ hostLabels: ['gpu'] }, 'hostLabels'],
      [{ parameters: { hostLabels: 'gpu' } }, 'parameters\\.hostLabels'],
    ] as const)
      await refused(alice, body, 400, new RegExp(`^${field}: no host has gpu; hosts have no`));
    await refused(alice, { hostLabels: [''] }, 400, /^hostLabels: .*must be a word/);
    for (const [job, field] of [
      [{ HostLabels: 'gpu' }, 'HostLabels'],
      [{ Resources: { HostLabels: 'gpu' } }, 'Resources\\.HostLabels'],
    ] as const) {
      const answer = await alice('POST', '/jobs', { Image: 'wide', ...job });
      assert.equal(answer.status, 400, JSON.stringify(answer.body));
      assert.match(String(answer.body['errorMessage']), new RegExp(`^${field}: no host has gpu`));
    }
  });

  it('tells what the drivers of libvirt can do, those of this site first', async () => {
    const { drivers, hostLabels } = Factory.parse((await alice('GET', factory)).body);
    const [first, ...others] = drivers;
    assert.deepEqual([first!.name, first!.state, first!.freeze], ['qemu', 'OK', true]);
    assert.ok(others.every(({ state }) => state === 'NONE'));
    const lxc = drivers.find(({ name }) => name === 'lxc')!;
    assert.deepEqual([lxc.freeze, lxc.screen, lxc.controls], [false, false, 'cgroups']);
    assert.deepEqual(hostLabels, []);
  });

  it('is made from the image that fits what is required, and says why', async () => {
    const id = await made({ image: { application: 'Hello' }, parameters: { memoryMiB: 300 } });
    const { image } = Site.parse((await alice('GET', `/sites/${id}`)).body);
    assert.equal(image.name, 'wide');
    assert.match(image.why!, /it has Hello 2\.1, it is the only one that fits/);
    await refused(alice, { image: { application: 'None' } }, 404, /none of|no published image/);
    await refused(alice, { image: { colour: 'red' } }, 400, /^image: .*colour/);
    const little = { image: { application: 'Hello' }, parameters: { memoryMiB: 100 } };
    await refused(alice, little, 404, /parameters\.memoryMiB: 100 is below 256/);
    await removeAll();
  });
});
