import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { request } from 'undici';
import { listen } from '#kernel/http/listen.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import type { RestDeps } from '#targetsystem/rest/deps.js';
import { jobOperations } from '#targetsystem/rest/jobs.js';
import { ownerDn, targetId, until } from '../xnjs/job/rig.js';
import { config, ScriptedTsi, start } from '../xnjs/job/scripted.js';
import { ShiftedClock } from './shifted-clock.js';

type Body = Record<string, unknown>;

/** The job operations by HTTP, on a real engine and a scripted TSI. */
describe('jobs by REST', { timeout: 30_000 }, () => {
  const scope = new Scope();
  const script = new ScriptedTsi();
  const clock = new ShiftedClock();
  let origin = '';
  before(async () => {
    script.onSubmit = ({ attemptId }) => {
      script.listed.set(attemptId, { state: 'RUNNING', queue: 'batch' });
      return Promise.resolve(attemptId);
    };
    const limits = { config: { ...config, maxUnfinishedPerUser: 3 } };
    const { engine } = await start(scope, script, undefined, limits);
    const site = { id: targetId, ownerDn, state: 'READY' };
    // what job operations ask of target systems; the rest is another test's
    const systems = { get: () => site, find: () => site, list: () => [site] };
    const deps = { jobs: engine, systems, clock } as unknown as RestDeps;
    const app = createRestApp({
      mounts: [mount('/rest/core', jobOperations, deps)],
      authenticate: () => ({
        ...{ dn: ownerDn, role: 'user', login: 'al' },
        attributes: {
          ...{ roles: ['user'], logins: ['al', 'al2'], groups: ['staff', 'proj'] },
          supplementaryGroups: [],
        },
      }),
      externalUrl: 'https://site/VSITE',
      log: silentLog,
    });
    const { port } = await listen(app, { host: '127.0.0.1', port: 0 }, scope);
    origin = `http://127.0.0.1:${port}/rest/core`;
  });
  after(() => scope.close());

  async function call(method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string, body?: object) {
    const answer = await request(`${origin}${path}`, {
      method,
      ...(body && {
        body: JSON.stringify(body),
        headers: { 'content-type': 'application/json' },
      }),
    });
    const text = await answer.body.text();
    const json = text === '' ? {} : (JSON.parse(text) as Body);
    return { status: answer.statusCode, headers: answer.headers, json };
  }

  async function submitted(description: object): Promise<string> {
    const { status, headers } = await call('POST', `/sites/${targetId}`, description);
    assert.equal(status, 201);
    return String(headers['location']).split('/').at(-1)!;
  }

  const show = async (id: string): Promise<Body> => (await call('GET', `/jobs/${id}`)).json;
  const reaches = (id: string, status: string) =>
    until(status, async () => (await show(id))['status'] === status);

  it('pauses and resumes a job, and says what it cannot', async () => {
    const id = await submitted({ Executable: 'x' });
    await reaches(id, 'RUNNING');
    const job = await show(id);
    const links = job['_links'] as Record<string, { href: string }>;
    for (const action of ['start', 'abort', 'restart', 'pause', 'resume'])
      assert.ok(links[`action:${action}`]!.href.endsWith(`/jobs/${id}/actions/${action}`));
    assert.deepEqual(job['submissionPreferences'], { role: ['user'], uid: ['al'] });
    assert.equal((await call('POST', `/jobs/${id}/actions/resume`, {})).status, 409);
    assert.equal((await call('POST', `/jobs/${id}/actions/pause`, {})).status, 204);
    assert.equal((await show(id))['status'], 'UNDEFINED');
    assert.equal((await call('POST', `/jobs/${id}/actions/resume`, {})).status, 204);
    await reaches(id, 'RUNNING');
    assert.equal((await call('POST', `/jobs/${id}/actions/freeze`, {})).status, 404);
    await call('POST', `/jobs/${id}/actions/abort`, {});
    await reaches(id, 'FAILED');
  });

  it('shows the time of every phase, and no credentials', async () => {
    const id = await submitted({
      Executable: 'x',
      haveClientStageIn: true,
      Imports: [{ To: 'f', Data: 'secret', Credentials: { Password: 'secret' } }],
    });
    const { consumedTime } = await show(id);
    const phases = [
      'total',
      'stage-in',
      'preCommand',
      'queued',
      'main',
      'postCommand',
      'stage-out',
    ];
    assert.deepEqual(Object.keys(consumedTime as object), phases);
    const { json } = await call('GET', `/jobs/${id}/submitted`);
    assert.doesNotMatch(JSON.stringify(json), /secret/);
    await call('DELETE', `/jobs/${id}`);
  });

  it('shows how long a job has taken by now, and what has become of it', async () => {
    const id = await submitted({ Executable: 'x', haveClientStageIn: true, Tags: ['a'] });
    await until('it waits', async () => (await show(id))['status'] === 'READY');
    const total = async (): Promise<number> => {
      const { consumedTime } = await show(id);
      return Number((consumedTime as Record<string, string>)['total']);
    };
    const before = await total();
    clock.advance(60_000);
    const after = await total();
    assert.ok(after >= before + 59 && after <= before + 70, `${before} and ${after}`);
    await call('PUT', `/jobs/${id}`, { tags: ['b'] });
    assert.deepEqual((await show(id))['tags'], ['b']);
    await call('DELETE', `/jobs/${id}`);
  });

  it('runs jobs in allocations, and in nothing else', async () => {
    const id = await submitted({ Executable: 'x' });
    const { status, json } = await call('POST', `/jobs/${id}`, { Executable: 'y' });
    assert.equal(status, 409);
    assert.match(String(json['errorMessage']), /is no allocation/);
    await call('DELETE', `/jobs/${id}`);
  });

  describe('as JSDL', () => {
    const jsdl = (account: string): string =>
      '<JobDefinition xmlns="http://schemas.ggf.org/jsdl/2005/11/jsdl"><JobDescription><Application>' +
      '<POSIXApplication xmlns="http://schemas.ggf.org/jsdl/2005/11/jsdl-posix">' +
      `<Executable>/bin/true</Executable>${account}</POSIXApplication>` +
      '</Application></JobDescription></JobDefinition>';
    async function post(account: string) {
      const headers = { 'content-type': 'application/xml' };
      const answer = await request(`${origin}/sites/${targetId}`, {
        ...{ method: 'POST', headers, body: jsdl(account) },
      });
      return { answer, text: await answer.body.text() };
    }

    it('choose among the logins and groups of their user', async () => {
      for (const [account, uid, group] of [
        ['', 'al', undefined],
        ['<UserName>al2</UserName><GroupName>proj</GroupName>', 'al2', 'proj'],
      ] as const) {
        const { answer, text } = await post(account);
        assert.equal(answer.statusCode, 201, text);
        const id = String(answer.headers['location']).split('/').at(-1)!;
        const { json } = await call('GET', `/jobs/${id}`);
        assert.deepEqual(json['submissionPreferences'], {
          role: ['user'],
          uid: [uid],
          ...(group !== undefined && { group: [group] }),
        });
        assert.deepEqual(Object.keys((await call('GET', `/jobs/${id}/submitted`)).json), [
          'Executable',
        ]);
        await call('DELETE', `/jobs/${id}`);
      }
    });

    it('get no other login or group, and are told which element asks for it', async () => {
      for (const [account, reason] of [
        [
          '<UserName>root</UserName>',
          /UserName: \\"root\\" is none of your logins; yours are al, al2/,
        ],
        ['<GroupName>wheel</GroupName>', /GroupName: \\"wheel\\" is none of your groups/],
      ] as const) {
        const { answer, text } = await post(account);
        assert.equal(answer.statusCode, 403);
        assert.match(text, reason);
      }
    });
  });

  it('refuses more jobs than a user may have, and says when to come back', async () => {
    const ids: string[] = [];
    const ready = { haveClientStageIn: true };
    await until('room for three', async () => {
      if (ids.length < 3) ids.push(await submitted(ready).catch(() => ''));
      if (ids.at(-1) === '') ids.pop();
      return ids.length === 3;
    });
    const { status, headers, json } = await call('POST', `/sites/${targetId}`, ready);
    assert.equal(status, 429);
    assert.equal(headers['retry-after'], '30');
    assert.match(String(json['errorMessage']), /3 unfinished jobs/);
    for (const id of ids) await call('DELETE', `/jobs/${id}`);
  });
});
