import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import {
  CreateBucketCommand,
  GetObjectCommand,
  ListMultipartUploadsCommand,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { Scope } from '#kernel/scope.js';
import { startStaging, type StagingRig } from './rig.js';
import { startS3 } from './s3-server.js';
import { startWeb } from './web-server.js';

describe('staging from and to S3', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: StagingRig;
  let s3: S3Client;
  let keys: { Username: string; Password: string };
  let common: object;
  const big = randomBytes(20 * 1024 * 1024 + 17);

  before(async () => {
    rig = await startStaging(scope, { config: { retries: 1 } });
    const server = await startS3(scope);
    const { endpoint, accessKey, secretKey } = server;
    keys = { Username: accessKey, Password: secretKey };
    common = { Credentials: keys, ExtraParameters: { endpoint, region: 'eu-west-1' } };
    s3 = new S3Client({
      endpoint,
      region: 'eu-west-1',
      forcePathStyle: true,
      credentials: { accessKeyId: accessKey, secretAccessKey: secretKey },
    });
    scope.defer(() => s3.destroy());
    await s3.send(
      new CreateBucketCommand({
        Bucket: 'results',
        CreateBucketConfiguration: { LocationConstraint: 'eu-west-1' },
      }),
    );
    const put = (Key: string, Body: string | Buffer) =>
      s3.send(new PutObjectCommand({ Bucket: 'results', Key, Body }));
    await put('in/big.bin', big);
    await put('in/a1.dat', 'a1');
    await put('in/sub/a2.dat', 'a2');
  });
  after(() => scope.close());

  const get = async (Key: string): Promise<Buffer> => {
    const { Body } = await s3.send(new GetObjectCommand({ Bucket: 'results', Key }));
    return Buffer.from(await Body!.transformToByteArray());
  };

  it('imports objects, prefixes and patterns', async () => {
    const { job } = await rig.imports([
      { From: 's3://results/in/big.bin', To: 'x/', ...common },
      { From: 's3://results/in/', To: 'all', ...common },
      { From: 's3://results/*/a?.dat', To: 'some', ...common },
    ]);
    assert.ok(readFileSync(rig.path(job, 'x/big.bin')).equals(big));
    assert.deepEqual(readdirSync(rig.path(job, 'all')).sort(), ['a1.dat', 'big.bin', 'sub']);
    assert.equal(rig.read(job, 'all/sub/a2.dat'), 'a2');
    assert.equal(rig.read(job, 'some/in/a1.dat'), 'a1');
  });

  it('exports small files, large ones in parts, and directories', async () => {
    const job = await rig.makeJob({
      Imports: [
        { From: 's3://results/in/big.bin', To: 'out/big', ...common },
        { To: 'out/small', Data: 'small' },
      ],
      Exports: [
        { From: 'out/small', To: 's3://results/up/one', ...common },
        { From: 'out', To: 's3://results/tree/', ...common },
      ],
    });
    await rig.stage(job, 'in');
    await rig.stage(job, 'out');
    assert.equal(String(await get('up/one')), 'small');
    assert.equal(String(await get('tree/small')), 'small');
    const digest = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
    assert.equal(digest(await get('tree/big')), digest(big));
    const { Uploads = [] } = await s3.send(new ListMultipartUploadsCommand({ Bucket: 'results' }));
    assert.deepEqual(Uploads, []);
    const again = await rig.makeJob({
      Imports: [{ To: 'r', Data: 'r' }],
      Exports: [{ From: 'r', To: 's3://results/up/one', Mode: 'nooverwrite', ...common }],
    });
    await rig.stage(again, 'in');
    await assert.rejects(rig.stage(again, 'out'), { code: 'CONFLICT' });
  });

  const wrong: [string, object, string, RegExp][] = [
    ['a missing object', {}, 's3://results/none', /answers 404/],
    ['a missing bucket', {}, 's3://none/x', /answers 404/],
    [
      'a wrong secret',
      {
        Credentials: {
          get Username() {
            return keys.Username;
          },
          Password: 'gu3ss',
        },
      },
      's3://results/in/a1.dat',
      /answers 403/,
    ],
    [
      'a wrong kind of credentials',
      { Credentials: { BearerToken: 't0ken' } },
      's3://results/x',
      /Username and Password/,
    ],
    ['a URL without bucket', {}, 's3:///x', /s3:\/\/bucket\/key/],
  ];
  for (const [what, change, From, message] of wrong)
    it(`names ${what}`, async () => {
      await assert.rejects(
        rig.imports([{ From, To: 'x', ...common, ...change }]),
        (error: Error) => {
          assert.match(error.message, message);
          assert.doesNotMatch(error.message, /gu3ss|t0ken/);
          return true;
        },
      );
    });

  it('asks neither the environment nor addresses inside the site', async () => {
    await using own = new Scope();
    const strict = await startStaging(own, { config: { allowAddresses: [], retries: 0 } });
    for (const host of ['127.0.0.1', 'localhost'])
      await assert.rejects(
        strict.imports([
          {
            From: 's3://results/in/a1.dat',
            To: 'x',
            ExtraParameters: { endpoint: `http://${host}:1` },
          },
        ]),
        { code: 'FORBIDDEN' },
      );
    const open = await startWeb(scope, (_, response) => response.end('public'));
    process.env['AWS_ACCESS_KEY_ID'] = keys.Username;
    process.env['AWS_SECRET_ACCESS_KEY'] = keys.Password;
    try {
      const ExtraParameters = { endpoint: open.url };
      const { job } = await rig.imports([{ From: 's3://public/x', To: 'x', ExtraParameters }]);
      assert.equal(rig.read(job, 'x'), 'public');
      assert.deepEqual(
        open.seen.map(({ path, headers }) => [path, headers.authorization]),
        [['/public/x?x-id=GetObject', undefined]],
      );
    } finally {
      delete process.env['AWS_ACCESS_KEY_ID'];
      delete process.env['AWS_SECRET_ACCESS_KEY'];
    }
  });
});
