import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer as createPlainServer, type RequestListener } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { Scope } from '#kernel/scope.js';
import { issueCertificate, keyPem, type Credential } from '#kernel/security/ca.js';
import { createDelegationVerifier, createTokenIssuer, peekToken } from '#kernel/security/tokens.js';
import { JobConfig } from '#xnjs/job/config.js';
import { openNoticeSender, type NoticeSender } from '#xnjs/job/notice-sender.js';
import { scratch, targetId, until } from './rig.js';
import { config, ScriptedTsi, start } from './scripted.js';

const serverDn = 'CN=Our Site,O=Grid';
const receiverDn = 'CN=Receiver,O=Grid';
const ownerDn = 'CN=Alice,O=Grid';
const { signal } = new AbortController();

describe('our word for a user, in notifications', { timeout: 30_000 }, () => {
  const scope = new Scope();
  let server: Credential;
  let authority: Credential;
  let authorityFile: string;
  /** What came with each request, the path before it. */
  const heard: [path: string, authorization: string | undefined][] = [];
  /** What it says to them, one after another; nothing: 204. */
  const answers: { readonly status: number; readonly location?: string }[] = [];
  let secure: string;
  let plain: string;
  let issued = 0;

  const settings = (url: string) =>
    JobConfig.parse({
      ...config,
      notifications: {
        ...{ allowLocalTargets: true, retryFirstMs: 5 },
        trustedReceivers: [{ url, dn: receiverDn }],
        trustFiles: [authorityFile],
      },
    });
  const openSender = (): Promise<NoticeSender> => {
    const issue = createTokenIssuer(server.key, serverDn, systemClock);
    return openNoticeSender(settings(`${secure}/hooks`).notifications, (token) => {
      issued++;
      return issue(token);
    });
  };
  const verifyAs = async (dn: string) => {
    const token = /^Bearer (.*)$/.exec(heard.at(-1)?.[1] ?? '')?.[1] ?? '';
    const verify = createDelegationVerifier({
      ...{ issuers: [server.certificate], serverDn: dn, clock: systemClock },
    });
    return await verify(token, peekToken(token) ?? {});
  };

  before(async () => {
    const directory = scratch(scope);
    authority = await issueCertificate(undefined, { subject: 'CN=CA', usage: 'ca', keyType: 'ec' });
    server = await issueCertificate(authority, { subject: serverDn, usage: 'server' });
    const own = await issueCertificate(authority, {
      ...{ subject: receiverDn, usage: 'server', hosts: ['127.0.0.1'] },
    });
    authorityFile = join(directory, 'ca.pem');
    await writeFile(authorityFile, authority.certificate.toString());
    const answer: RequestListener = (request, response) => {
      heard.push([request.url ?? '', request.headers.authorization]);
      const { status, location } = answers.shift() ?? { status: 204 };
      request.resume().on('end', () => {
        response.writeHead(status, location === undefined ? {} : { location }).end();
      });
    };
    const tls = { key: keyPem(own.key), cert: own.certificate.toString() };
    const listening = [createServer(tls, answer), createPlainServer(answer)] as const;
    for (const each of listening) {
      await once(each.listen(0, '127.0.0.1'), 'listening');
      scope.defer(() => {
        each.closeAllConnections();
        each.close();
      });
    }
    const [first, second] = listening.map((each) => (each.address() as AddressInfo).port);
    secure = `https://127.0.0.1:${first}`;
    plain = `http://127.0.0.1:${second}`;
  });
  beforeEach(() => {
    heard.length = 0;
    issued = 0;
  });
  after(() => scope.close());

  it('is good at the receiver that is listed, for the job’s owner, and at no other', async () => {
    using sender = await openSender();
    await sender.send({ url: `${secure}/hooks/workflow-1?x=1`, ownerDn, body: {} }, signal);
    const { dn, method, renewable, untilMs } = await verifyAs(receiverDn);
    assert.deepEqual([dn, method, renewable], [ownerDn, 'ETD', false]);
    assert.ok(untilMs! <= Date.now() + 300_000, 'it is short');
    await assert.rejects(verifyAs(serverDn), { code: 'UNAUTHENTICATED' });
    await assert.rejects(verifyAs('CN=Third,O=Grid'), { code: 'UNAUTHENTICATED' });
  });

  const others = [
    ['what lies beside it', () => `${secure}/hooks-2`],
    ['what lies above it', () => `${secure}/`],
    ['a path that leads out of it', () => `${secure}/hooks/%2e%2e/other`],
    ['a path that may lead out of it', () => `${secure}/hooks/..%2Fother`],
    ['a path that leads out of it in Java', () => `${secure}/hooks/..;/other`],
    ['plain http', () => `${plain}/hooks`],
  ] as const;
  for (const [what, url] of others)
    it(`does not come to ${what}`, async () => {
      using sender = await openSender();
      await sender.send({ url: url(), ownerDn, body: {} }, signal);
      assert.deepEqual([heard[0]?.[1], heard.length, issued], [undefined, 1, 0]);
    });

  it('is not needed where user and password stand in the address', async () => {
    using sender = await openSender();
    for (const [person, sent] of [
      ['bob:pw', `Basic ${Buffer.from('bob:pw').toString('base64')}`],
      [':pw', undefined],
    ] as const) {
      const url = secure.replace('//', `//${person}@`);
      await sender.send({ url: `${url}/hooks`, ownerDn, body: {} }, signal);
      assert.equal(heard.at(-1)?.[1], sent);
    }
    assert.equal(issued, 0);
  });

  it('goes no further than the receiver', async () => {
    answers.push({ status: 307, location: `${secure}/hooks/elsewhere` });
    using sender = await openSender();
    const message = { url: `${secure}/hooks`, ownerDn, body: {} };
    await assert.rejects(sender.send(message, signal), /status 307/);
    assert.deepEqual(
      heard.map(([path]) => path),
      ['/hooks'],
    );
  });

  it('does not come to a server that only says that it is the receiver', async () => {
    const { notifications } = settings(`${secure}/hooks`);
    const issue = createTokenIssuer(server.key, serverDn, systemClock);
    using sender = await openNoticeSender({ ...notifications, trustFiles: [] }, issue);
    const message = { url: `${secure}/hooks`, ownerDn, body: {} };
    await assert.rejects(sender.send(message, signal), { code: 'UNABLE_TO_VERIFY_LEAF_SIGNATURE' });
    assert.equal(heard.length, 0);
  });

  it('is made anew for each try, and is nowhere in the job', async () => {
    answers.push({ status: 503 });
    const notices = await openSender(); // the engine closes it
    const { engine, reaches } = await start(scope, new ScriptedTsi(), undefined, {
      ...{ config: settings(`${secure}/hooks`), notices },
    });
    const wish = { URL: `${secure}/hooks`, status: ['SUCCESSFUL'] };
    const description = { Executable: 'x', NotificationSettings: wish };
    const { id } = await engine.submit({ ownerDn, targetId, description });
    await reaches(id, 'DONE');
    await until('told', async () => (await engine.get(id)).notices?.length === 0);
    assert.equal((await verifyAs(receiverDn)).dn, ownerDn);
    assert.deepEqual([heard.length, issued], [2, 2]);
    const stored = JSON.stringify(await engine.get(id));
    for (const [, authorization = ''] of heard)
      assert.ok(!stored.includes(authorization.replace('Bearer ', '')));
  });
});

it('receivers that get it are https addresses and nothing more', () => {
  for (const url of ['http://h/x', 'https://a:b@h/x', 'https://h/x?y', 'https://h/x#y'])
    assert.throws(
      () => JobConfig.parse({ notifications: { trustedReceivers: [{ url, dn: 'CN=X' }] } }),
      /url/,
    );
});
