import assert from 'node:assert/strict';
import type { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { Agent, request as httpsRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { json as readJson } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { z } from 'zod';
import { openAddress } from '#kernel/http/direct-tls.js';
import { listen } from '#kernel/http/listen.js';
import { everybody, operations } from '#kernel/http/operation.js';
import { json } from '#kernel/http/reply.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { createLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { identityConfig, openIdentity } from '#kernel/security/open-identity.js';
import { openAuthority, type Authority } from '../../gateway/authority.js';
import { eventually, sharedCredentials } from '../../gateway/rig.js';

const whoAmI = operations<object>()({
  method: 'GET',
  path: '/me',
  summary: 'Who asks',
  input: z.object({}),
  policy: everybody,
  run: (_deps, _input, { caller }) => json({ dn: caller.dn }),
});

type Client = {
  readonly cert: string;
  readonly key: string;
  readonly certificate: X509Certificate;
};

describe('a service that clients reach without a gateway', () => {
  const scope = new Scope();
  const lines: Record<string, unknown>[] = [];
  let authority: Authority;
  let folder = '';
  let port = 0;
  let [alice, bob]: Client[] = [];

  before(async () => {
    const { credentials } = await sharedCredentials();
    authority = scope.use(await openAuthority());
    const directory = await mkdtemp(join(tmpdir(), 'direct-tls-'));
    scope.defer(() => rm(directory, { recursive: true }));
    folder = join(directory, 'trust');
    await mkdir(folder);
    await copyFile(credentials.ca.certFile, join(folder, 'ca.pem'));
    await writeFile(join(directory, 'users.yaml'), 'users: []');
    const write = (line: string) => lines.push(JSON.parse(line) as Record<string, unknown>);
    const log = createLog({ stream: { write } });
    const config = z
      .strictObject(identityConfig)
      .parse({ usersFile: join(directory, 'users.yaml') });
    const { address, follow } = await openAddress({
      ...{ host: '127.0.0.1', port: 0 },
      tls: { ...credentials.gateway, trustFiles: [], trustDir: folder, reloadSeconds: 0.1 },
    });
    const app = createRestApp({
      mounts: [mount('/rest', [whoAmI], {})],
      externalUrl: 'https://localhost/S',
      log,
      ...(await openIdentity(config, { log, scope, direct: true })),
    });
    const listening = await listen(app, address, scope);
    follow(listening, { scope, log });
    port = listening.port ?? 0;
    [alice, bob] = await Promise.all(['CN=Alice', 'CN=Bob'].map((name) => authority.issue(name)));
  });
  after(() => scope.close());

  async function ask(client?: Client, headers: Record<string, string> = {}, agent?: Agent) {
    const request = httpsRequest({
      ...{ host: '127.0.0.1', port, path: '/rest/me', headers, agent: agent ?? false },
      ...(client && { cert: client.cert, key: client.key }),
      rejectUnauthorized: false,
    });
    request.end();
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    const body = (await readJson(response)) as { dn?: string; errorMessage?: string };
    const session = String(response.headers['x-unicore-securitysession']);
    return { status: response.statusCode, body, session, reused: request.reusedSocket };
  }
  const inSession = (id: string) => ({ 'x-unicore-securitysession': id });

  it('knows them by their certificates, and their sessions only where these are shown', async () => {
    const { body, session } = await ask(alice);
    assert.equal(body.dn, 'CN=Alice');
    assert.equal((await ask(alice, inSession(session))).body.dn, 'CN=Alice');
    for (const other of [undefined, bob]) {
      const again = (await ask(alice)).session;
      assert.equal((await ask(other, inSession(again))).status, 432);
    }
  });

  it('lets those in no more whose certificate is withdrawn, by whatever they kept', async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    scope.defer(() => agent.destroy());
    const { session } = await ask(bob, {}, agent);
    assert.ok((await ask(bob, {}, agent)).reused);
    await writeFile(join(folder, 'ca.r0'), await authority.crl([bob!.certificate]));
    await eventually(async () => (await ask(bob)).status === 403, 'bob is refused');
    assert.equal((await ask(alice)).body.dn, 'CN=Alice');
    assert.equal((await ask(bob, inSession(session))).status, 432);
    assert.equal((await ask(undefined, inSession(session))).status, 432);
    const kept = await ask(bob, {}, agent);
    assert.deepEqual([kept.status, kept.reused], [403, false]);
  });

  it('stays as it was while its files make no sense, and says so', async () => {
    await writeFile(join(folder, 'broken.pem'), '-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n'); // prettier-ignore
    const complaint = 'TLS files not usable, the last good ones stay in force';
    await eventually(() => lines.some(({ msg }) => msg === complaint), complaint);
    assert.equal((await ask(alice)).body.dn, 'CN=Alice');
    assert.equal((await ask(bob)).status, 403);
  });
});
