import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { JobConfig } from '#xnjs/job/config.js';
import { createNoticeSender } from '#xnjs/job/notice-sender.js';
import { scratch, until } from './rig.js';
import { config, ScriptedTsi, start } from './scripted.js';

type Received = Record<string, string>;

/** A receiver that the test tells how to answer. */
async function receiver(scope: Scope) {
  const received: Received[] = [];
  const state = { answer: (response: ServerResponse) => void response.writeHead(204).end() };
  const server = createServer((request: IncomingMessage, response) => {
    void text(request).then((body) => {
      received.push(JSON.parse(body) as Received);
      state.answer(response);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  scope.defer(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return { received, state, url: `http://127.0.0.1:${port}/told?by=vsite` };
}

const to = (url: string) => ({ url, ownerDn: 'CN=A', body: {} });
const notifications = { allowLocalTargets: true, retryFirstMs: 5, retryMaxMs: 20, attempts: 3 };
const open = JobConfig.parse({ ...config, notifications });

describe('notifications', { timeout: 30_000 }, () => {
  it('tells when a job runs and how it ended', async () => {
    await using scope = new Scope();
    const { received, url } = await receiver(scope);
    const script = new ScriptedTsi();
    script.onSubmit = ({ attemptId }) => {
      script.listed.set(attemptId, { state: 'RUNNING' });
      return Promise.resolve(attemptId);
    };
    const { engine, reaches } = await start(scope, script, undefined, { config: open });
    const { id } = await engine.submit({
      ownerDn: 'CN=A',
      targetId: '11111111-1111-4111-8111-111111111111',
      description: { Executable: 'x', Notification: url },
      urlOf: (job) => `https://site/rest/core/jobs/${job}`,
    });
    await reaches(id, 'RUNNING');
    script.listed.clear();
    await until('both', () => received.length === 2);
    const common = { href: `https://site/rest/core/jobs/${id}`, statusMessage: '' };
    const batchSystemID = `${id}-1`;
    assert.deepEqual(received, [
      { ...common, status: 'RUNNING', batchSystemID },
      { ...common, status: 'SUCCESSFUL', batchSystemID, exitCode: '0' },
    ]);
    await until('noted', async () =>
      (await engine.get(id)).log.join('\n').includes('Notification of SUCCESSFUL sent.'),
    );
    assert.deepEqual((await engine.get(id)).notices, []);
  });

  it('tells only of what was asked for, also of the words of the batch system', async () => {
    await using scope = new Scope();
    const { received, url } = await receiver(scope);
    const script = new ScriptedTsi();
    script.onSubmit = ({ attemptId }) => {
      script.listed.set(attemptId, { state: 'QUEUED', queue: 'q', rawState: 'CONFIGURING' });
      return Promise.resolve(attemptId);
    };
    const { submit, reaches } = await start(scope, script, undefined, { config: open });
    const id = await submit({
      Executable: 'x',
      NotificationSettings: { URL: url, status: ['FAILED'], bssStatus: ['CONF.*'] },
    });
    await until('the first', () => received.length === 1);
    script.exitCode = '9\n';
    script.listed.clear();
    await reaches(id, 'DONE');
    await until('the second', () => received.length === 2);
    assert.deepEqual(
      received.map(({ bssStatus, status, exitCode }) => bssStatus ?? `${status} ${exitCode}`),
      ['CONFIGURING', 'FAILED 9'],
    );
  });

  it('tries again what fails, gives up some time, and never keeps a job from ending', async () => {
    await using scope = new Scope();
    const { received, state, url } = await receiver(scope);
    state.answer = (response) => void response.writeHead(503).end();
    const { engine, submit, reaches } = await start(scope, new ScriptedTsi(), undefined, {
      config: open,
    });
    const settings = { URL: url, status: ['SUCCESSFUL'] };
    const id = await submit({ Executable: 'x', NotificationSettings: settings });
    await reaches(id, 'DONE');
    await until('given up', async () =>
      /SUCCESSFUL could not be delivered: .*503/.test((await engine.get(id)).log.join('\n')),
    );
    assert.equal(received.length, notifications.attempts);
  });

  it('sends after a restart of the server what could not be sent before it', async () => {
    await using scope = new Scope();
    const { received, state, url } = await receiver(scope);
    state.answer = () => undefined;
    const directory = scratch(scope);
    const first = new Scope();
    const one = await start(first, new ScriptedTsi(), directory, { config: open });
    const settings = { URL: url, status: ['SUCCESSFUL'] };
    const id = await one.submit({ Executable: 'x', NotificationSettings: settings });
    await until('on its way', () => received.length === 1);
    assert.equal((await one.engine.get(id)).state, 'DONE'); // stored before it is told
    await one.engine.close();
    state.answer = (response) => void response.writeHead(204).end();
    await using second = new Scope();
    const { engine } = await start(second, new ScriptedTsi(), directory, { config: open });
    await until('sent', async () => (await engine.get(id)).notices?.length === 0);
    assert.deepEqual(received[1], received[0]);
  });

  const forbidden = [
    'http://127.0.0.1:1/',
    'http://localhost:1/',
    'http://[::1]:1/',
    'http://[::ffff:127.0.0.1]:1/',
    'http://169.254.169.254/latest/meta-data',
    'http://[fe80::1]/',
    'http://0.0.0.0:1/',
    'http://2130706433:1/',
    'http://0x7f.1:1/',
  ];
  for (const url of forbidden)
    it(`does not call ${url}`, async () => {
      using sender = createNoticeSender({ allowLocalTargets: false, timeoutMs: 5_000 });
      const { signal } = new AbortController();
      await assert.rejects(sender.send(to(url), signal), {
        message: /is an address of this host or link/,
      });
    });

  it('follows no redirect', async () => {
    await using scope = new Scope();
    const { received, state, url } = await receiver(scope);
    state.answer = (response) => void response.writeHead(307, { location: url }).end();
    using sender = createNoticeSender({ allowLocalTargets: true, timeoutMs: 5_000 });
    await assert.rejects(sender.send(to(url), new AbortController().signal), /status 307/);
    assert.equal(received.length, 1);
  });

  it('waits for no receiver longer than configured', async () => {
    await using scope = new Scope();
    const { state, url } = await receiver(scope);
    state.answer = () => undefined;
    using sender = createNoticeSender({ allowLocalTargets: true, timeoutMs: 50 });
    await assert.rejects(sender.send(to(url), new AbortController().signal), /not within 50 ms/);
  });
});

describe('how many jobs there may be', { timeout: 30_000 }, () => {
  it('refuses more than a user or the site may have, before anything is stored', async () => {
    await using scope = new Scope();
    const limits = { maxUnfinished: 6, maxUnfinishedPerUser: 4 };
    const { engine, submit, reaches } = await start(scope, new ScriptedTsi(), undefined, {
      config: { ...config, ...limits },
    });
    const targetId = '11111111-1111-4111-8111-111111111111';
    const waiting = { haveClientStageIn: true, Executable: 'x' };
    const of = (ownerDn: string, description: Record<string, unknown> = waiting) =>
      engine.submit({ ownerDn, targetId, description });
    const first = await submit(waiting);
    for (let n = 0; n < 3; n++) await submit(waiting);
    await assert.rejects(submit(waiting), { code: 'JOB_LIMIT', message: /at most 4/ });
    const sweep = { Executable: 'x', Parameters: { N: { Values: ['1', '2', '3'] } } };
    await assert.rejects(of('CN=Other', sweep), { code: 'SITE_UNAVAILABLE' });
    await of('CN=Other');
    await of('CN=Other');
    await assert.rejects(of('CN=Third'), (error: { code: string; details: object }) => {
      assert.equal(error.code, 'SITE_UNAVAILABLE');
      assert.ok('retryAfterSeconds' in error.details);
      return true;
    });
    assert.equal((await engine.list({ offset: 0, num: 99 })).total, 6);
    await engine.abort(first);
    await reaches(first, 'DONE');
    await submit(waiting);
    await assert.rejects(of('CN=Third'), { code: 'SITE_UNAVAILABLE' });
    await engine.restart(first); // what is there may run again
  });

  it('counts the children of a sweep until they end', async () => {
    await using scope = new Scope();
    const script = new ScriptedTsi();
    script.onSubmit = ({ attemptId }) => {
      script.listed.set(attemptId, { state: 'RUNNING' });
      return Promise.resolve(attemptId);
    };
    const { submit, reaches } = await start(scope, script, undefined, {
      config: { ...config, maxUnfinishedPerUser: 4 },
    });
    const sweep = { Executable: 'x', Parameters: { N: { Values: ['1', '2', '3'] } } };
    const id = await submit(sweep);
    await until('all run', () => script.listed.size === 3);
    await assert.rejects(submit(), { code: 'JOB_LIMIT', message: /you have 4 unfinished jobs/ });
    script.listed.clear();
    await reaches(id, 'DONE');
    await submit(sweep);
  });

  it('counts those of the server before it', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const limited = { config: { ...config, maxUnfinishedPerUser: 2 } };
    const first = new Scope();
    const one = await start(first, new ScriptedTsi(), directory, limited);
    for (let n = 0; n < 2; n++) await one.submit({ haveClientStageIn: true });
    await one.engine.close();
    await using second = new Scope();
    const { submit } = await start(second, new ScriptedTsi(), directory, limited);
    await assert.rejects(submit(), { code: 'JOB_LIMIT' });
  });
});
