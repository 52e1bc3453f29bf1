import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { request } from 'undici';
import { systemClock } from '#kernel/clock.js';
import { listen } from '#kernel/http/listen.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { baseOperations } from '#targetsystem/rest/base.js';
import { factoryOperations } from '#targetsystem/rest/factories.js';
import type { RestDeps } from '#targetsystem/rest/deps.js';
import { restDeps } from './rest-deps.js';
import { jobOperations } from '#targetsystem/rest/jobs.js';
import { siteOperations } from '#targetsystem/rest/sites.js';
import { IdbConfig } from '#xnjs/idb/config.js';
import { IdbSource } from '#xnjs/idb/idb-source.js';
import { Agent, ownerDn, scratch, startEngine, targetId, type Rig } from '../xnjs/job/rig.js';
import { anImageMetadata, aTargetSystem } from '../xnjs/vm/samples.js';

type Answer = { status: number; location: string; body: Record<string, unknown> };

/** Engine and agent are real; of the machines there is only the record of one. */
describe('the IDB in the REST interface', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: Omit<Rig, 'agent'>;
  let origin = '';

  before(async () => {
    const directory = scratch(scope);
    const path = join(directory, 'idb.json');
    const batch = {
      Runtime: '60-1d',
      Licence: { Type: 'CHOICE', AllowedValues: ['none', 'gold'] },
      Debug: { Type: 'BOOLEAN' },
      Comment: { Type: 'STRING' },
    };
    const greet = { Name: 'Greet', Version: '1', Executable: 'echo', Arguments: ['$WHOM'] };
    const Parameters = { WHOM: { Type: 'string', Description: 'who' } };
    const site = {
      Partitions: { batch: { Resources: batch } },
      Info: { admin: 'ops' },
      Applications: [{ ...greet, Parameters }],
    };
    writeFileSync(path, JSON.stringify(site));
    const config = IdbConfig.parse({ path });
    const idb = scope.use(await IdbSource.open({ config, clock: systemClock, log: silentLog }));
    const agent = new Agent(directory);
    scope.defer(() => agent.kill());
    await agent.start();
    rig = await startEngine(scope, directory, agent.socket, { idb });
    const image = { ...aTargetSystem().image, metadata: anImageMetadata({ info: { docs: 'x' } }) };
    const system = aTargetSystem({ id: targetId, ownerDn, image, state: 'READY' });
    const systems = {
      get: () => system,
      list: () => [system],
      find: (id: string) => rig.targets.find(id),
      limits: { cpus: 8, memoryMiB: 1024, perUser: 1 },
      usage: () => undefined,
      heard: () => ({}),
      addresses: () => Promise.resolve([]),
      planner: {
        offeredNetworks: ['none'],
        flavours: { offered: () => [] },
        quotaOf: () => Promise.resolve([]),
      },
      places: { list: () => [] },
    };
    const deps = restDeps({
      version: '1',
      systems: systems as unknown as RestDeps['systems'], // what the operations of this test need
      jobs: rig.engine,
      storages: { ofTarget: () => ({}) } as unknown as RestDeps['storages'],
      idb,
      submission: { state: { enabled: true, message: '' } } as unknown as RestDeps['submission'],
      reservations: {} as unknown as RestDeps['reservations'],
      machines: {} as unknown as RestDeps['machines'], // no job of these names an image
      imagesUrl: () => '',
    });
    const app = createRestApp({
      mounts: [
        mount(
          '/core',
          [...baseOperations, ...factoryOperations, ...siteOperations, ...jobOperations],
          deps,
        ),
      ],
      authenticate: ({ headers }) => ({
        dn: ownerDn,
        role: headers['x-role'] === 'admin' ? 'admin' : 'user',
      }),
      externalUrl: 'https://h/TEST',
      log: silentLog,
    });
    const { port } = await listen(app, { host: '127.0.0.1', port: 0 }, scope);
    origin = `http://127.0.0.1:${port}/core`;
  });
  after(() => scope.close());

  async function ask(path: string, options: Parameters<typeof request>[1] = {}): Promise<Answer> {
    const answer = await request(origin + path, options);
    const text = await answer.body.text();
    const body = (text === '' ? {} : JSON.parse(text)) as Answer['body'];
    return { status: answer.statusCode, location: String(answer.headers['location']), body };
  }

  it('shows resources, applications and texts of a site, within its machine', async () => {
    const { body } = await ask(`/sites/${targetId}`);
    assert.deepEqual(body['resources'], {
      batch: {
        Runtime: '60-86400',
        Nodes: '1-1',
        CPUsPerNode: '1-2',
        TotalCPUs: '1-2',
        MemoryPerNode: '1048576-402653184',
        ArraySize: '1-10000',
        ArrayLimit: '1-10000',
        Licence: ['none', 'gold'],
        Debug: ['true', 'false'],
        Comment: '*',
      },
    });
    assert.deepEqual(body['applications'], ['Greet---v1']);
    assert.deepEqual(body['otherInfo'], { docs: 'x', admin: 'ops' });
    const factory = (await ask('/factories/default_target_system_factory')).body;
    assert.deepEqual(factory['applications'], ['Greet---v1']);
    assert.deepEqual(factory['otherInfo'], { admin: 'ops' });
    const application = await ask(`/sites/${targetId}/applications/Greet---v1`);
    assert.deepEqual(application.body['Options'], { WHOM: { Type: 'STRING', Description: 'who' } });
  });

  it('tells administrators whether the files are in force', async () => {
    const server = async (role: string) =>
      (await ask('/', { headers: { 'x-role': role } })).body['server'] as Record<string, unknown>;
    assert.equal((await server('admin'))['idb'], 'OK');
    assert.equal((await server('user'))['idb'], undefined);
  });

  const jsdl = (arguments_: string) =>
    `<JobDefinition xmlns="http://schemas.ggf.org/jsdl/2005/11/jsdl"><JobDescription><Application>
       <ApplicationName>Greet</ApplicationName>
       <POSIXApplication xmlns="http://schemas.ggf.org/jsdl/2005/11/jsdl-posix">${arguments_}</POSIXApplication>
     </Application></JobDescription></JobDefinition>`;
  const submit = (body: string, type = 'application/xml') =>
    ask(`/sites/${targetId}/jobs`, {
      method: 'POST',
      body,
      headers: { 'content-type': type },
    });

  it('runs an application that a job names in JSDL', async () => {
    const text = jsdl('<Environment name="WHOM">a &amp; b</Environment><Argument>!</Argument>');
    const { status, location } = await submit(text, 'text/xml; charset=utf-8');
    assert.equal(status, 201);
    const id = location.slice(location.lastIndexOf('/') + 1);
    const job = await rig.finished(id);
    assert.equal(job.run.result?.message, '');
    assert.equal(rig.output(id), 'a & b !\n');
  });

  it('refuses JSDL that is wrong, naming the reason', async () => {
    const wrong = await submit(jsdl('<Environment>x</Environment>'));
    assert.equal(wrong.status, 400);
    assert.match(JSON.stringify(wrong.body), /Environment: has no name/);
    const hostile = await submit(`<!DOCTYPE x [<!ENTITY y "z">]>${jsdl('')}`);
    assert.equal(hostile.status, 400);
    assert.match(JSON.stringify(hostile.body), /document type/);
    assert.equal((await submit('a=1', 'text/plain')).status, 415);
  });
});
