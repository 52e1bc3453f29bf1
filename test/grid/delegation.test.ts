import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { jwtVerify } from 'jose';
import { demoUser } from '#cli/quickstart/configuration.js';
import { createTargetSystem, findImage, waitUntilReady } from '#cli/quickstart/main-job.js';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { issueCertificate, keyPem, type Credential } from '#kernel/security/ca.js';
import { dnKey } from '#kernel/security/dn.js';
import { addUser, openUsers } from '#kernel/security/users.js';
import { startTargetsystem, TargetsystemConfig } from '#targetsystem/main.js';
import { eventually, freePort, Grid, noContainers, sitePath } from './grid.js';

const otherDn = 'CN=Other Site,O=Elsewhere,C=EU';
const signal = AbortSignal.timeout(300_000);

describe(
  'two sites, of which one takes the word of the other for users',
  { skip: noContainers },
  () => {
    const scope = new Scope();
    let grid: Grid;
    /** Where the other site is. */
    let url: string;
    let ca: string;
    /** The same person, at each of them. */
    let here: HttpClient;
    let there: HttpClient;
    let site: string;
    /** The user's own, there. */
    let storage: string;
    /** Something of the other site's that is told of jobs. */
    let receiver: Receiver;

    before(async () => {
      const port = await freePort();
      url = `https://127.0.0.1:${port}`;
      grid = scope.use(await Grid.start({ prepare: (made) => trustOther(made) }));
      await startOther(port);
      await grid.publishDemo('container');
      here = await grid.user();
      const auth = { user: demoUser.name, password: demoUser.password };
      there = scope.use(createHttpClient({ baseUrl: url, tls: { ca }, auth }));
      const made = await there.json('POST', '/rest/core/storages', {});
      storage = new URL(String(made.headers['location'])).pathname;
      const image = await findImage(here, 'Transform', 'rootfs');
      site = await createTargetSystem(here, image.id, {});
      await waitUntilReady(here, site, signal, () => undefined);
      await there.upload(
        'PUT',
        `${storage}/files/in.txt`,
        Readable.from([Buffer.from('far away\n')]),
      );
    });
    after(() => scope.close());

    const otherFile = (name: string): string => join(grid.layout.state, 'other', name);

    async function trustOther(made: Grid): Promise<void> {
      grid = made;
      await mkdir(otherFile(''), { recursive: true });
      const authority = await issueCertificate(undefined, {
        ...{ subject: 'CN=CA,O=Elsewhere', usage: 'ca', keyType: 'ec' },
      });
      const own = await issueCertificate(authority, {
        ...{ subject: otherDn, usage: 'server', hosts: ['127.0.0.1'] },
      });
      ca = authority.certificate.toString();
      await writeFile(otherFile('ca.pem'), ca);
      await writeFile(otherFile('key.pem'), keyPem(own.key), { mode: 0o600 });
      await writeFile(otherFile('cert.pem'), own.certificate.toString());
      await made.set('targetsystem', 'xnjs.staging', {
        trustedSites: [{ url, dn: otherDn }],
        trustFiles: [otherFile('ca.pem')],
        allowAddresses: ['127.0.0.1'],
      });
      receiver = await startReceiver(scope, own);
      await made.set('targetsystem', 'xnjs.jobs', {
        notifications: {
          allowLocalTargets: true,
          trustedReceivers: [url, receiver.url].map((each) => ({ url: each, dn: otherDn })),
          trustFiles: [otherFile('ca.pem')],
        },
      });
    }

    /** It has no gateway, no machines, and knows the key of the first from the registry there. */
    async function startOther(port: number): Promise<void> {
      const users = await openUsers(grid.layout.users, { log: silentLog });
      const { dn } = (await users.findByName(demoUser.name))!;
      await writeFile(otherFile('users.yaml'), 'users: []\n', { mode: 0o600 });
      await addUser(otherFile('users.yaml'), { ...demoUser, dn, role: 'user' });
      const credential = { keyFile: otherFile('key.pem'), certFile: otherFile('cert.pem') };
      const registry = `${grid.url}/VSITE/rest/registries/default_registry`;
      const config = TargetsystemConfig.parse({
        siteName: 'OTHER',
        listen: { host: '127.0.0.1', port, tls: credential },
        externalUrl: url,
        credential,
        usersFile: otherFile('users.yaml'),
        registry: { external: [{ url: registry, caFile: grid.caFile, trustKeys: true }] },
        xnjs: {
          stateDirectory: otherFile('state'),
          database: { url: `sqlite:${otherFile('other.sqlite')}` },
          hypervisor: {},
          images: { url: 'http://images', socket: otherFile('no.sock') },
          storages: { factories: { DEFAULT: { on: 'host', path: otherFile('made') } } },
        },
      });
      const other = await startTargetsystem(config, { log: silentLog });
      scope.defer(() => other.close());
    }

    const over = async (path: string, client = here) =>
      await eventually('it is over', async () => {
        const { body } = await client.json('GET', path);
        const { status, statusMessage = '' } = body as { status: string; statusMessage?: string };
        return /SUCCESSFUL|FAILED|DONE/.test(status) && { status, statusMessage };
      });

    it('a job here reads and writes its user’s private storage there', async () => {
      const files = `${url}${storage}/files`;
      const { headers } = await here.json('POST', site, {
        Executable: 'tr a-z A-Z < in.txt > out.txt',
        Imports: [{ From: `${files}/in.txt`, To: 'in.txt' }],
        Exports: [{ From: 'out.txt', To: `${files}/results/out.txt` }],
      });
      const job = new URL(String(headers['location'])).pathname;
      assert.deepEqual(await over(job), { status: 'SUCCESSFUL', statusMessage: '' });
      const result = await there.download(`${storage}/files/results/out.txt`);
      assert.equal(await text(result.body), 'FAR AWAY\n');
    });

    it('a transfer between the servers too, and nobody reads what is not theirs', async () => {
      const source = `BFT:${url}${storage}/files/in.txt`;
      const transfer = async (client: HttpClient) => {
        const wish = { file: 'fetched.txt', source };
        const { headers } = await client.json('POST', `${sitePath}/storages/DATA/transfers`, wish);
        return await over(new URL(String(headers['location'])).pathname, client);
      };
      assert.equal((await transfer(here)).status, 'DONE');
      const { body } = await here.download(`${sitePath}/storages/DATA/files/fetched.txt`);
      assert.equal(await text(body), 'far away\n');
      const eve = await grid.addUser('eve', 'secret word');
      const { status, statusMessage } = await transfer(eve);
      assert.equal(status, 'FAILED');
      assert.match(statusMessage, /answers 403/);
    });

    it('a receiver of notifications there knows for whom they are, by the certificate here', async () => {
      const told = async (address: string): Promise<void> => {
        const wish = { URL: address, status: ['SUCCESSFUL'] };
        const description = { Executable: 'true', NotificationSettings: wish };
        const { headers } = await here.json('POST', site, description);
        const job = new URL(String(headers['location'])).pathname;
        await eventually('it was told', async () => {
          const { body } = await here.json('GET', job);
          return (body as { log: string[] }).log.join().includes('Notification of SUCCESSFUL sent');
        });
      };
      await told(`${receiver.url}/told`);
      const { body } = await here.download(`${sitePath}/certificate`, {
        headers: { accept: 'text/plain' },
      });
      const { publicKey, subject } = new X509Certificate(await text(body));
      const users = await openUsers(grid.layout.users, { log: silentLog });
      const { dn } = (await users.findByName(demoUser.name))!;
      const [authorization = ''] = receiver.heard;
      const { payload } = await jwtVerify(authorization.replace('Bearer ', ''), publicKey, {
        audience: otherDn,
      });
      assert.equal(dnKey(String(payload.sub)), dnKey(dn));
      assert.equal(dnKey(String(payload.iss)), dnKey(subject.split('\n').reverse().join(',')));
      // another VSite does as the user may: this address makes a storage for who posts to it
      const count = async (): Promise<number> => {
        const { body } = await there.json('GET', '/rest/core/storages');
        return (body as { storages: string[] }).storages.length;
      };
      const before = await count();
      await told(`${url}/rest/core/storages`);
      assert.equal(await count(), before + 1);
    });
  },
);

type Receiver = { readonly url: string; readonly heard: readonly string[] };

async function startReceiver(scope: Scope, { key, certificate }: Credential): Promise<Receiver> {
  const heard: string[] = [];
  const tls = { key: keyPem(key), cert: certificate.toString() };
  const server = createServer(tls, (request, response) => {
    heard.push(request.headers.authorization ?? '');
    request.resume().on('end', () => response.writeHead(204).end());
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  scope.defer(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, heard };
}
