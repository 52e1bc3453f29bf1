import assert from 'node:assert/strict';
import { mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { request as httpsRequest } from 'node:https';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { z } from 'zod';
import { listen } from '#kernel/http/listen.js';
import { adminOnly, everybody, operations } from '#kernel/http/operation.js';
import { json } from '#kernel/http/reply.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { openAuditFile } from '#kernel/security/audit.js';
import { createCa, issueCertificate, keyPem, type Credential } from '#kernel/security/ca.js';
import { createConsignorSigner } from '#kernel/security/consignor.js';
import { parseDn } from '#kernel/security/dn.js';
import { identityConfig, openIdentity } from '#kernel/security/open-identity.js';
import { serverTls } from '#kernel/security/tls.js';
import { addUser } from '#kernel/security/users.js';

const operation = operations<object>();
const whoAmI = operation({
  method: 'GET',
  path: '/me/:thing',
  summary: 'Who asks',
  input: z.object({ thing: z.string() }),
  policy: everybody,
  run: (_deps, _input, { caller }) => json(caller),
});
const secretPlace = operation({
  method: 'DELETE',
  path: '/me/:thing',
  summary: 'Nothing',
  input: z.object({ thing: z.string() }),
  policy: adminOnly,
  run: () => json({}),
});
const alice = 'CN=Alice,O=Physics,C=EU';

/** A service that clients reach by TLS, with a gateway before it or without. */
describe('identity by TLS', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let directory: string;
  let ca: Credential;
  let gateway: Credential;
  let port = 0;
  const clients: Record<string, Credential> = {};
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'identity-'));
    scope.defer(() => rm(directory, { recursive: true, force: true }));
    const keyType = 'ec' as const;
    ca = await issueCertificate(undefined, { subject: 'CN=CA', usage: 'ca', keyType });
    const server = await issueCertificate(ca, { subject: 'CN=S', usage: 'server', hosts: ['::1'] });
    gateway = await issueCertificate(ca, { subject: 'CN=Gateway', usage: 'client', keyType });
    clients['alice'] = await issueCertificate(ca, { subject: alice, usage: 'client', keyType });
    clients['eve'] = await issueCertificate(await createCa('CN=CA'), {
      ...{ subject: alice, usage: 'client', keyType },
    });
    clients['gateway'] = gateway;
    const at = (name: string) => join(directory, name);
    await addUser(at('users.yaml'), { name: 'ali', dn: alice, password: 's3cret', role: 'admin' });
    await writeFile(at('gateway.pem'), gateway.certificate.toString());
    await writeFile(at('simple.json'), JSON.stringify({ [alice]: { xlogin: ['al', 'phys'], group: ['g'], queue: ['fast', 'slow'] } })); // prettier-ignore
    await writeFile(at('vos.yaml'), `vos: { /astro: { members: ['${alice}'], groups: [astro] } }`);
    await writeFile(at('more.yaml'), `vos: { /geo: { members: ['${alice}'], groups: [geo] } }`);
    const config = z.strictObject(identityConfig).parse({
      usersFile: at('users.yaml'),
      consignorFiles: [at('gateway.pem')],
      attributes: {
        combining: 'MERGE',
        sources: [
          { kind: 'file', path: at('simple.json') },
          { kind: 'users' },
          { kind: 'vos', path: at('vos.yaml') },
          { kind: 'vos', path: at('more.yaml') },
        ],
      },
      audit: { file: at('audit/log') },
    });
    const identity = await openIdentity(config, { log: silentLog, scope, direct: true });
    const app = createRestApp({
      mounts: [mount('/rest', [whoAmI, secretPlace], {})],
      externalUrl: 'https://x/Y',
      log: silentLog,
      ...identity,
    });
    const material = { key: keyPem(server.key), cert: server.certificate.toString(), ca: [ca.certificate.toString()] }; // prettier-ignore
    const listening = await listen(app, { host: '::1', port: 0, tls: serverTls(material) }, scope);
    port = listening.port ?? 0;
  });
  after(() => scope.close());

  async function ask(headers: Record<string, string>, client?: string, method = 'GET') {
    const credential = client === undefined ? undefined : clients[client];
    const request = httpsRequest({
      ...{ host: '::1', port, path: '/rest/me/x', method, agent: false, headers },
      ca: ca.certificate.toString(),
      ...(credential && {
        key: keyPem(credential.key),
        cert: credential.certificate.toString(),
      }),
    });
    request.end();
    const [response] = (await once(request, 'response')) as [IncomingMessage];
    const text = (await buffer(response)).toString();
    const body = JSON.parse(text) as Record<string, unknown> & { errorMessage?: string };
    return { status: response.statusCode, headers: response.headers, body };
  }
  const basic = (password: string) => ({
    authorization: `Basic ${Buffer.from(`ali:${password}`).toString('base64')}`,
  });
  const prefer = (text: string) => ({ 'x-unicore-user-preferences': text });
  const lines = async (): Promise<Record<string, unknown>[]> => {
    await new Promise(setImmediate); // a turn's lines are written at its end
    const text = await readFile(join(directory, 'audit/log'), 'utf8');
    return text.split('\n').filter(Boolean).map((line) => JSON.parse(line) as Record<string, unknown>); // prettier-ignore
  };

  it('knows a client by the certificate of an authority that is trusted', async () => {
    const { body } = await ask({}, 'alice');
    assert.deepEqual([body['dn'], body['method'], body['login']], [alice, 'X509', 'al']);
    assert.equal((await ask({}, 'eve')).status, 403);
    assert.equal((await ask({})).body['role'], 'anonymous');
  });
  it('does not take the gateway for its client, and believes the gateway alone', async () => {
    assert.equal((await ask({}, 'gateway')).body['role'], 'anonymous');
    const through = { 'x-unicore-gateway': 'https://x/Y', 'x-unicore-consignor-ip': '192.0.2.7' };
    const signed = { 'X-UNICORE-Consignor': createConsignorSigner(gateway.key)(parseDn(alice)) };
    const { body } = await ask({ ...through, ...signed }, 'gateway');
    assert.deepEqual([body['dn'], body['peer']], [alice, '192.0.2.7']);
    const claimed = await ask({ 'x-unicore-consignor-ip': '192.0.2.7' }, 'alice');
    assert.equal(claimed.body['peer'], '::1', 'a client cannot choose its address');
    const forged = createConsignorSigner(clients['eve']!.key)(parseDn(alice));
    for (const value of [forged, `DN="${alice}"`, `DN="${alice}";DSIG=`, ''])
      assert.equal(
        (await ask({ ...through, 'x-unicore-consignor': value }, 'gateway')).status,
        403,
      );
  });

  it('lets the caller choose among what all sources say, and names what he may not', async () => {
    const text = 'xlogin:phys,PGID:astro,supgids:g+astro,role:user,queue:slow,vo:/astro,colour:red';
    const { body, headers } = await ask(prefer(text), 'alice');
    assert.deepEqual([body['login'], body['role']], ['phys', 'user']);
    assert.deepEqual(body['attributes'], {
      roles: ['admin', 'user'],
      logins: ['al', 'phys', 'ali'],
      groups: ['g', 'astro'],
      group: 'astro',
      supplementaryGroups: ['g', 'astro'],
      queues: ['fast', 'slow'],
      queue: 'slow',
      vos: ['/astro', '/geo'],
    });
    const session = { 'x-unicore-securitysession': String(headers['x-unicore-securitysession']) };
    const later = await ask({ ...session, ...prefer('queue:fast') }, 'alice');
    const { login, attributes } = later.body as { login?: string; attributes?: object };
    assert.equal(login, 'phys', 'what was chosen sticks');
    assert.equal((attributes as { queue?: string }).queue, 'fast');
    for (const wrong of [
      'uid:root',
      'group:wheel',
      'supgids:g+wheel',
      'role:server',
      'queue:vip',
      'vo:/bio',
      'group',
      'group:',
      ':g',
      'a:b:c',
      'x,,y',
    ]) {
      // prettier-ignore
      const refused = await ask(prefer(wrong), 'alice');
      assert.equal(refused.status, 403, wrong);
      assert.match(refused.body.errorMessage ?? '', /X-UNICORE-User-Preferences/, wrong);
    }
  });

  it('writes down each decision, with who, what and why, and no secrets', async () => {
    const before = (await lines()).length;
    await ask(basic('s3cret'), undefined, 'DELETE');
    await ask({ ...basic('s3cret'), ...prefer('role:user'), 'x-request-id': 'r1' }, undefined, 'DELETE'); // prettier-ignore
    await ask(basic('wr0ng'));
    await ask({ authorization: `Bearer ${'t0ken'.repeat(500)}` });
    await ask({ 'x-unicore-securitysession': 'x' });
    const written = (await lines()).slice(before).map(({ time, ...line }) => {
      assert.match(String(time), /^\d{4}-\d\d-\d\dT/);
      return line;
    });
    const mine = { dn: alice, method: 'PASSWORD_FILE', peer: '::1' };
    const it = { operation: 'DELETE /me/:thing', resource: 'https://x/Y/rest/me/x' };
    const facts = written.map((line): Record<string, unknown> => ({ ...line, reqId: undefined }));
    const noted = [
      { what: 'login', allowed: true, why: 'by PASSWORD_FILE', role: 'admin', ...mine },
      { what: 'access', allowed: true, why: 'role admin', role: 'admin', ...mine, ...it },
      { what: 'login', allowed: true, why: 'by PASSWORD_FILE', role: 'user', ...mine },
      { what: 'access', allowed: false, why: 'role user', role: 'user', ...mine, ...it },
    ];
    assert.deepEqual(
      facts.slice(0, 4),
      noted.map((line) => ({ ...line, reqId: undefined })),
    );
    assert.equal(written[3]!['reqId'], 'r1');
    assert.deepEqual(
      facts.slice(4).map(({ allowed, code, dn }) => [allowed, code, dn]),
      [
        [false, 'UNAUTHENTICATED', 'ali'],
        [false, 'UNAUTHENTICATED', undefined],
        [false, 'SESSION_UNKNOWN', undefined],
      ],
    );
    assert.doesNotMatch(JSON.stringify(written), /s3cret|wr0ng|t0ken|Basic|Bearer/);
  });

  it('goes on in a new audit file when the old one was moved away, with lines of bounded length', async () => {
    const path = join(directory, 'rotated');
    using audit = openAuditFile({ file: path }, silentLog);
    audit.write({ what: 'access', allowed: true, why: 'one', resource: 'x'.repeat(100_000) });
    audit.reopen();
    await rename(path, `${path}.1`);
    audit.write({ what: 'access', allowed: true, why: 'two\nlines' });
    process.emit('SIGHUP');
    audit.write({ what: 'access', allowed: true, why: 'three' });
    audit.reopen();
    const [old, fresh] = await Promise.all([readFile(`${path}.1`, 'utf8'), readFile(path, 'utf8')]);
    assert.equal(old.split('\n').length, 3);
    assert.ok(old.length < 3_000);
    assert.match(fresh, /^\{[^\n]*three[^\n]*\}\n$/);
  });
});
