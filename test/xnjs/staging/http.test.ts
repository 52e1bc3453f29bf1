import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { startStaging, type StagingRig } from './rig.js';
import { bodyOf, serve, startWeb, type WebServer } from './web-server.js';

const content = randomBytes(3_000_000);
/** More than the server sends to an agent at a time. */
const large = randomBytes(9_000_000);
const sha256Of = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
const sha256 = sha256Of(content);
const basic = { Username: 'alice', Password: 'pa55word' };
const basicHeader = `Basic ${Buffer.from('alice:pa55word').toString('base64')}`;

describe('staging by http and https', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: StagingRig;
  let secure: WebServer;
  let plain: WebServer;
  const received = new Map<string, Buffer>();
  let cut = 0;

  before(async () => {
    secure = await startWeb(
      scope,
      (request, response) => {
        const [, kind = '', rest = ''] = /^\/([^/?]*)\/?(.*)$/.exec(request.url ?? '') ?? [];
        if (request.method === 'HEAD') response.writeHead(received.has(rest) ? 200 : 404).end();
        else if (request.method === 'PUT')
          void bodyOf(request).then((body) => {
            received.set(rest, body);
            response.writeHead(201).end();
          });
        else if (kind === 'to')
          response.writeHead(302, { location: decodeURIComponent(rest) }).end();
        else if (kind === 'file') serve(content, request, response);
      },
      { tls: true },
    );
    plain = await startWeb(scope, (request, response) => {
      const [, kind = '', value = ''] = (request.url ?? '').split('/');
      if (kind === 'file') serve(content, request, response);
      else if (kind === 'cut' || kind === 'changing') {
        // every first answer breaks in the middle
        const tag = kind === 'changing' ? `"v${Math.min(cut, 1)}"` : undefined;
        const body = kind === 'changing' ? Buffer.alloc(9_000_000, cut === 0 ? 'a' : 'b') : large;
        if (cut++ > 0) {
          serve(body, request, response, tag);
          return;
        }
        const headers = { etag: tag ?? `"${createHash('md5').update(body).digest('hex')}"` };
        response.writeHead(200, { ...headers, 'content-length': body.length });
        response.write(body.subarray(0, 6_000_000), () =>
          setTimeout(() => response.destroy(), 300),
        );
      } else if (kind === 'busy') {
        if (cut++ === 0) response.writeHead(503, { 'retry-after': '0' }).end();
        else response.end('at last');
      } else if (kind === 'status')
        response.writeHead(Number(value)).end('{"errorMessage":"says who"}');
      else if (kind === 'silent') response.writeHead(200, { 'content-length': 9 }).write('x');
    });
    rig = await startStaging(scope, { trust: [secure.ca], config: { silenceMs: 400, retries: 2 } });
  });
  after(() => scope.close());

  const failing = async (entry: object): Promise<Error> => {
    try {
      await rig.imports([{ To: 'x', ...entry }]);
    } catch (error) {
      return error as Error;
    }
    throw new assert.AssertionError({ message: 'the import did not fail' });
  };

  it('imports over TLS with Basic credentials or a token, and checks the content', async () => {
    secure.seen.length = 0;
    const { job, log } = await rig.imports([
      {
        From: `${secure.url}/file`,
        To: 'a/b.dat',
        Credentials: basic,
        ExtraParameters: { checksum: `sha256:${sha256}` },
      },
      { From: `${secure.url}/file/named.dat`, To: 'dir/', Credentials: { BearerToken: 'tok' } },
    ]);
    assert.deepEqual(readFileSync(rig.path(job, 'a/b.dat')), content);
    assert.deepEqual(readFileSync(rig.path(job, 'dir/named.dat')), content);
    const sent = new Set(secure.seen.map(({ headers }) => headers.authorization)); // a busy host asks again
    assert.deepEqual([...sent].sort(), [basicHeader, 'Bearer tok']);
    assert.ok(log.some((line) => line.includes(`${secure.url}/file: 3000000 bytes`)));
    assert.deepEqual(
      readdirSync(rig.path(job, '.')).filter((name) => name.startsWith('.')),
      [],
    );
  });

  it('exports by PUT, with credentials and the length', async () => {
    const job = await rig.makeJob({
      Imports: [{ To: 'r', Data: 'result' }],
      Exports: [
        { From: 'r', To: `${secure.url}/up/one`, Credentials: basic },
        { From: 'r', To: `${secure.url}/up/` },
      ],
    });
    await rig.stage(job, 'in');
    await rig.stage(job, 'out');
    assert.equal(String(received.get('one')), 'result');
    assert.equal(String(received.get('r')), 'result');
    const put = secure.seen.find(({ path }) => path === '/up/one')!;
    assert.equal(put.headers['content-length'], '6');
    assert.equal(put.headers.authorization, basicHeader);
    const again = await rig.makeJob({
      Imports: [{ To: 'r', Data: 'other' }],
      Exports: [{ From: 'r', To: `${secure.url}/up/one`, Mode: 'nooverwrite' }],
    });
    await rig.stage(again, 'in');
    await assert.rejects(rig.stage(again, 'out'), { code: 'CONFLICT' });
    assert.equal(String(received.get('one')), 'result');
  });

  it('follows redirects, with credentials to the same host only', async () => {
    secure.seen.length = 0;
    const second = await startWeb(scope, (request, response) => serve(content, request, response), {
      tls: true,
    });
    const same = `${secure.url}/to/${encodeURIComponent(`${secure.url}/file`)}`;
    await rig.imports([{ From: same, To: 'x', Credentials: basic }]);
    assert.deepEqual(
      secure.seen.map(({ headers }) => headers.authorization),
      [basicHeader, basicHeader],
    );
    // its certificate is not trusted, so ask one that is: another port is another origin
    assert.match(
      (
        await failing({
          From: `${secure.url}/to/${encodeURIComponent(second.url)}`,
          Credentials: basic,
        })
      ).message,
      /self.signed|verify|issuer/i,
    );
    assert.deepEqual(second.seen, []);
    const other = `${plain.url}/file`;
    const from = await startWeb(scope, (_, response) =>
      response.writeHead(307, { location: other }).end(),
    );
    plain.seen.length = 0;
    await rig.imports([{ From: from.url, To: 'x', Credentials: basic }]);
    assert.deepEqual(
      plain.seen.map(({ headers }) => headers.authorization),
      [undefined],
    );
  });

  it('does not follow a redirect from https to http', async () => {
    const { message } = await failing({
      From: `${secure.url}/to/${encodeURIComponent(plain.url)}`,
    });
    assert.match(message, /redirects from https to http/);
  });

  it('goes on with the rest when a connection breaks', async () => {
    cut = 0;
    plain.seen.length = 0;
    const { job } = await rig.imports([
      {
        From: `${plain.url}/cut`,
        To: 'x',
        ExtraParameters: { checksum: `sha256:${sha256Of(large)}` },
      },
    ]);
    assert.ok(readFileSync(rig.path(job, 'x')).equals(large));
    const [, second] = plain.seen;
    assert.match(second?.headers.range ?? '', /^bytes=[1-9]\d*-$/);
    assert.match(String(second?.headers['if-range']), /^"/);
  });

  it('starts anew when the file has changed meanwhile', async () => {
    cut = 0;
    const { job } = await rig.imports([{ From: `${plain.url}/changing`, To: 'x' }]);
    assert.ok(readFileSync(rig.path(job, 'x')).equals(Buffer.alloc(9_000_000, 'b')));
  });

  it('tries again what may pass, and at once gives up what will not', async () => {
    cut = 0;
    const { job } = await rig.imports([{ From: `${plain.url}/busy`, To: 'x' }]);
    assert.equal(rig.read(job, 'x'), 'at last');
    plain.seen.length = 0;
    const { message } = await failing({ From: `${plain.url}/status/404` });
    assert.match(message, /^Import of "x" from http:.*failed: .*answers 404: says who$/);
    assert.equal(plain.seen.length, 1);
    plain.seen.length = 0;
    assert.match((await failing({ From: `${plain.url}/status/502` })).message, /answers 502/);
    assert.equal(plain.seen.length, 3);
  });

  it('gives up a server that falls silent', async () => {
    assert.match((await failing({ From: `${plain.url}/silent` })).message, /broke|silent/i);
    assert.match((await failing({ From: `${plain.url}/nothing` })).message, /silent/);
  });

  it('refuses content that is not what was meant', async () => {
    const wrong = `sha256:${'0'.repeat(64)}`;
    const job = await rig.makeJob({
      Imports: [{ From: `${plain.url}/file`, To: 'x', ExtraParameters: { checksum: wrong } }],
    });
    await assert.rejects(rig.stage(job, 'in'), /has the checksum sha256:.*, not sha256:0000/);
    assert.equal(existsSync(rig.path(job, 'x')), false);
    assert.deepEqual(readdirSync(rig.path(job, '.')), []);
  });

  it('ends the other transfers with the first failure, and names file, URL and reason', async () => {
    let closed: Promise<unknown> | undefined;
    let asked!: () => void;
    const slow = new Promise<void>((resolve) => (asked = resolve));
    const server = await startWeb(scope, (request, response) => {
      if (request.url === '/slow') {
        closed = once(response, 'close');
        asked();
        response.writeHead(200).write('x');
      } else void slow.then(() => response.writeHead(410).end());
    });
    const job = await rig.makeJob({
      Imports: [
        { From: `${server.url}/slow`, To: 'slow' },
        { From: `${server.url}/gone?token=s3cret`, To: 'gone', Credentials: basic },
      ],
    });
    await assert.rejects(rig.stage(job, 'in'), ({ message }: Error) => {
      assert.equal(
        message,
        `Import of "gone" from ${server.url}/gone failed: ${new URL(server.url).host} answers 410`,
      );
      return true;
    });
    await closed;
  });

  it('never reaches addresses inside the site that are not allowed', async () => {
    await using own = new Scope();
    const strict = await startStaging(own, { config: { allowAddresses: [], retries: 0 } });
    plain.seen.length = 0;
    const port = new URL(plain.url).port;
    for (const host of [
      '127.0.0.1',
      'localhost',
      '[::1]',
      '2130706433',
      '[::ffff:127.0.0.1]',
      '0.0.0.0',
      '169.254.169.254',
    ])
      await assert.rejects(
        strict.imports([{ From: `http://${host}:${port}/file`, To: 'x' }]),
        { code: 'FORBIDDEN' },
        host,
      );
    assert.deepEqual(plain.seen, []);
  });

  it('takes no proxy from the environment', async () => {
    const proxy = await startWeb(scope, (_, response) => response.end('proxy'));
    process.env['http_proxy'] = process.env['HTTP_PROXY'] = proxy.url;
    try {
      const { job } = await rig.imports([{ From: `${plain.url}/file`, To: 'x' }]);
      assert.deepEqual(readFileSync(join(rig.path(job, 'x'))), content);
      assert.deepEqual(proxy.seen, []);
    } finally {
      delete process.env['http_proxy'];
      delete process.env['HTTP_PROXY'];
    }
  });
});
