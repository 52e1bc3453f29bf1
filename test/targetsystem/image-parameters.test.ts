import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { Job, Site } from '#targetsystem/rest/answers.js';
import { Plan } from '#targetsystem/rest/answers-placement.js';
import { until } from '../xnjs/job/rig.js';
import { scratch } from '../tsi/agent-process.js';
import { idOf, startCompute, type Ask, type Compute } from './compute-rig.js';

const parameters = {
  threads: { type: 'integer', min: 1, max: 8, default: 2 },
  mode: { type: 'choice', values: ['fast', 'safe'], default: 'safe' },
  title: { type: 'string', required: true, maxLength: 20 },
  debug: { type: 'boolean' },
};

describe('the parameters of an image', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let rig: Compute;
  let alice: Ask;
  let file: string;
  before(async () => {
    file = join(scratch(scope), 'parameters');
    rig = await startCompute(scope, {
      agent: [`tsi.setup_file=${file}`],
      jobs: { reaperIntervalMs: 20 },
    });
    rig.images.add({ name: 'tunable', parameters });
    alice = rig.as('alice');
  });
  after(() => scope.close());

  const site = async (id: string) => Site.parse((await alice('GET', `/sites/${id}`)).body);
  const isReady = (id: string) =>
    until('it is ready', async () => (await site(id)).resourceStatus === 'READY');

  const refusals: [object, RegExp][] = [
    [{}, /^imageParameters\.title: the image needs a value/],
    [{ title: 'x', threads: 9 }, /^imageParameters\.threads: 9 is above 8/],
    [{ title: 'x', mode: 'slow' }, /^imageParameters\.mode: must be one of fast, safe/],
    [{ title: 'x', speed: 1 }, /^imageParameters\.speed: .*it has threads, mode, title, debug/],
    [['title'], /^imageParameters: must be values by name/],
  ];
  for (const [imageParameters, text] of refusals)
    it(`refuse ${JSON.stringify(imageParameters)} before and when a machine is made`, async () => {
      for (const path of ['/sites', '/sites?dryRun=true']) {
        const answer = await alice('POST', path, { image: 'tunable', imageParameters });
        assert.equal(answer.status, 400);
        assert.match(String(answer.body['errorMessage']), text);
      }
      assert.deepEqual(rig.systems.list(), []);
    });

  it('are unknown to an image that declares none', async () => {
    const wish = { image: 'plain', parameters: { imageParameters: { title: 'x' } } };
    const { status, body } = await alice('POST', '/sites', wish);
    assert.equal(status, 400);
    const text = /^parameters\.imageParameters\.title: the image has no parameters/;
    assert.match(String(body['errorMessage']), text);
  });

  it('reach jobs and programs, with defaults, and are kept over a restart of the server', async () => {
    const wish = { image: 'tunable', imageParameters: { title: "it's $HOME", threads: '4' } };
    const values = { threads: 4, mode: 'safe', title: "it's $HOME" };
    const dry = Plan.parse((await alice('POST', '/sites?dryRun=true', wish)).body);
    assert.deepEqual(dry.imageParameters, values);
    const id = idOf(await alice('POST', '/sites', wish));
    await isReady(id);
    assert.deepEqual((await site(id)).imageParameters, values);
    assert.deepEqual((await site(id)).vm.setup, {});
    assert.equal(
      readFileSync(file, 'utf8'),
      `VSITE_PARAM_threads='4'\nVSITE_PARAM_mode='safe'\nVSITE_PARAM_title='it'\\''s $HOME'\n`,
    );
    rig = await rig.restart();
    alice = rig.as('alice');
    await isReady(id);
    assert.deepEqual((await site(id)).imageParameters, values);
    const test = `[ "$VSITE_PARAM_threads $VSITE_PARAM_title" = "4 it's \\$HOME" ]`;
    const job = idOf(await alice('POST', `/sites/${id}`, { Executable: test }));
    await until('it has run', async () => {
      const { status, statusMessage } = Job.parse((await alice('GET', `/jobs/${job}`)).body);
      assert.notEqual(status, 'FAILED', statusMessage);
      return status === 'SUCCESSFUL';
    });
    await alice('DELETE', `/sites/${id}`);
  });

  it('are asked for by a job, whose machine has them', async () => {
    const there = idOf(
      await alice('POST', '/sites', { image: 'tunable', imageParameters: { title: 'a' } }),
    );
    const send = async (path: string, title: string, threads: number): Promise<string> => {
      const Resources = { Image: 'tunable', ImageParameters: { title, threads } };
      const job = idOf(await alice('POST', path, { Executable: 'true', Resources }));
      const { _links } = Job.parse((await alice('GET', `/jobs/${job}`)).body);
      return _links['parentTSS']!.href.split('/').at(-1)!;
    };
    // where its values are those that it asks for it does
    assert.equal(await send(`/sites/${there}/jobs`, 'a', 2), there);
    const other = await send(`/sites/${there}/jobs`, 'b', 3);
    assert.notEqual(other, there);
    assert.deepEqual((await site(other)).imageParameters, { threads: 3, mode: 'safe', title: 'b' });
    const wrong = {
      Executable: 'true',
      Image: 'tunable',
      ImageParameters: { title: 'c', mode: 1 },
    };
    const { status, body } = await alice('POST', '/jobs', wrong);
    assert.equal(status, 400);
    assert.match(String(body['errorMessage']), /^ImageParameters\.mode: must be one of/);
  });
});
