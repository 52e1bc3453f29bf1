import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { imageRoutes } from '#imagerepo/contract.js';
import { ImagerepoConfig, startImagerepo } from '#imagerepo/main.js';
import { createHttpClient, type HttpClientOptions } from '#kernel/http/client.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { createCa, issueCertificate } from '#kernel/security/ca.js';
import { consignorHeader, createConsignorSigner } from '#kernel/security/consignor.js';
import { parseDn } from '#kernel/security/dn.js';
import { addUser } from '#kernel/security/users.js';

describe('the image repository as a service', () => {
  const scope = new Scope();
  let directory: string;
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'imagerepo-main-'));
    scope.defer(() => rm(directory, { recursive: true }));
  });
  after(() => scope.close());

  const configure = (changes: object = {}) =>
    ImagerepoConfig.parse({
      listen: { host: '127.0.0.1', port: 0 },
      externalUrl: 'http://localhost/IMAGES',
      database: { url: `sqlite:${join(directory, 'images.sqlite')}` },
      storeDirectory: join(directory, 'store'),
      usersFile: join(directory, 'users.yaml'),
      ...changes,
    });

  it('knows callers by password and by the word of a trusted consignor', async () => {
    const users = join(directory, 'users.yaml');
    await addUser(users, { name: 'alice', dn: 'CN=Alice,O=Grid', password: 'opensesame' });
    const ca = await createCa('CN=CA');
    const trusted = await issueCertificate(ca, {
      subject: 'CN=Gateway',
      usage: 'server',
      keyType: 'rsa',
    });
    const other = await issueCertificate(ca, {
      subject: 'CN=Other',
      usage: 'server',
      keyType: 'rsa',
    });
    const consignor = join(directory, 'consignor.pem');
    await writeFile(consignor, trusted.certificate.toString());
    await using service = await startImagerepo(configure({ consignorFiles: [consignor] }), {
      log: silentLog,
    });
    const list = async (how: Partial<HttpClientOptions>) => {
      const baseUrl = `http://127.0.0.1:${service.port}`;
      await using client = createHttpClient({ baseUrl, ...how });
      return (await client.json('GET', `${imageRoutes.images}?owner=me`)).status;
    };
    const signed = (by: typeof trusted) => ({
      headers: { [consignorHeader]: createConsignorSigner(by.key)(parseDn('CN=Alice,O=Grid')) },
    });
    assert.equal(await list({ auth: { user: 'alice', password: 'opensesame' } }), 200);
    assert.equal(await list(signed(trusted)), 200);
    await assert.rejects(list(signed(other)), { code: 'FORBIDDEN' });
    await assert.rejects(list({ auth: { user: 'alice', password: 'wrong' } }), {
      code: 'FORBIDDEN',
    });
    await assert.rejects(list({}), { code: 'FORBIDDEN' });
  });

  it('refuses a configuration with unknown keys', () => {
    assert.throws(() => configure({ colour: 'red' }));
  });

  it('says why it cannot start, and leaves the uploads of the one that runs alone', async () => {
    const authenticate = () => ({ dn: 'CN=x', role: 'user' });
    const start = (changes: object) =>
      startImagerepo(configure(changes), { log: silentLog, authenticate });
    const first = await start({});
    scope.use(first);
    const [session] = await readdir(join(directory, 'store', 'incoming'));
    await writeFile(join(directory, 'store', 'incoming', session!, 'upload'), '');
    const listen = { host: '127.0.0.1', port: first.port };
    await assert.rejects(start({ listen }), { code: 'ADDRESS_IN_USE' });
    const incoming = await readdir(join(directory, 'store', 'incoming'), { recursive: true });
    assert.ok(incoming.includes(`${session}/upload`));
    await mkdir(join(directory, 'not'));
    await writeFile(join(directory, 'not', 'store'), '');
    const storeDirectory = join(directory, 'not', 'store');
    await assert.rejects(start({ storeDirectory }), { code: 'CONFIG_INVALID' });
    await assert.rejects(start({ database: { url: 'postgres://x@127.0.0.1:1/x' } }), {
      code: 'DATABASE_UNAVAILABLE',
    });
  });
});
