import assert from 'node:assert/strict';
import type { RequestListener } from 'node:http';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { GridError } from '#kernel/errors.js';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import { listen } from '#kernel/http/listen.js';
import { Scope } from '#kernel/scope.js';
import { collectGarbage } from '../net/garbage.js';

/** Answers what the path asks for. */
const peer: RequestListener = (request, response) => {
  const [, kind, value = ''] = (request.url ?? '').split('/');
  if (kind === 'status')
    response.writeHead(Number(value)).end('{"errorMessage":"as asked","status":0}');
  else if (kind === 'html') response.writeHead(502).end('<title>Bad Gateway</title>');
  else if (kind === 'text') response.end('no JSON');
  else if (kind === 'large') response.end(JSON.stringify('x'.repeat(5000)));
  else if (kind === 'echo') request.pipe(response);
  else if (kind === 'headers') response.end(JSON.stringify(request.headers));
  else if (kind === 'cut')
    response.writeHead(200, { 'content-length': 9 }).write('{', () => response.destroy());
  else if (kind === 'stuck') response.writeHead(403).write('{"errorMessage":');
  else if (kind === 'empty') response.writeHead(204).end();
  // anything else is never answered
};

describe('the HTTP client', () => {
  const scope = new Scope();
  let client: HttpClient;
  let baseUrl: string;

  before(async () => {
    const { port } = await listen(peer, { host: '127.0.0.1', port: 0 }, scope);
    baseUrl = `http://127.0.0.1:${port}`;
    client = scope.use(createHttpClient({ baseUrl, timeoutMs: 300, maxBytes: 1000 }));
  });
  after(() => scope.close());

  const statuses = [
    [400, 'BAD_REQUEST'],
    [401, 'UNAUTHENTICATED'],
    [403, 'FORBIDDEN'],
    [404, 'NOT_FOUND'],
    [409, 'CONFLICT'],
    [413, 'TOO_LARGE'],
    [416, 'RANGE_NOT_SATISFIABLE'],
    [418, 'PEER_FAILED'],
    [432, 'SESSION_UNKNOWN'],
    [500, 'PEER_FAILED'],
    [503, 'SITE_UNAVAILABLE'],
    [507, 'STORAGE_FULL'],
  ] as const;
  for (const [status, code] of statuses)
    it(`throws ${code} with the peer's text for ${status}`, async () => {
      await assert.rejects(client.json('GET', `/status/${status}`), { code, message: 'as asked' });
    });

  it('waits for the text of a refused upgrade no longer than for anything else', async () => {
    await assert.rejects(client.upgrade('/status/403', 'other'), {
      ...{ code: 'FORBIDDEN', message: 'as asked' },
    });
    await assert.rejects(client.upgrade('/stuck', 'other'), GridError);
  });

  it('sends and reads JSON, with credentials', async () => {
    const body = { a: [1, null] };
    assert.deepEqual((await client.json('POST', '/echo', body)).body, body);
    assert.deepEqual(
      await client.json('DELETE', '/empty').then(({ status, body }) => [status, body]),
      [204, undefined],
    );
    const auth = { user: 'me', password: 'pä:ss' };
    await using other = createHttpClient({ baseUrl, auth, headers: { 'x-a': 'b' } });
    const { body: sent } = await other.json('GET', '/headers');
    const { authorization, 'x-a': extra } = sent as Record<string, string>;
    const [scheme, credentials] = authorization!.split(' ');
    assert.deepEqual(
      [scheme, Buffer.from(credentials!, 'base64').toString(), extra],
      ['Basic', 'me:pä:ss', 'b'],
    );
  });

  it('streams in both directions', async () => {
    const { body } = await client.upload('PUT', '/echo', Readable.from(['["a', 'b"]']));
    assert.deepEqual(body, ['ab']);
    assert.equal(await text((await client.download('/text')).body), 'no JSON');
  });

  const troubles = [
    ['an HTML page', '/html', 'PEER_FAILED'],
    ['no JSON', '/text', 'PEER_FAILED'],
    ['more than the limit', '/large', 'PEER_FAILED'],
    ['half an answer', '/cut', 'SITE_UNAVAILABLE'],
    ['no answer in time', '/silence', 'SITE_UNAVAILABLE'],
  ] as const;
  for (const [what, path, code] of troubles)
    it(`throws ${code} for ${what}`, async () => {
      await assert.rejects(client.json('GET', path), { code });
    });

  it('keeps its deadline through a garbage collection', async () => {
    const { signal } = new AbortController();
    const call = client.json('GET', '/silence', undefined, { signal });
    const collected = setImmediate().then(collectGarbage);
    await assert.rejects(call, { code: 'SITE_UNAVAILABLE' });
    await collected;
  });

  it('throws SITE_UNAVAILABLE when nothing listens', async () => {
    await using nobody = createHttpClient({ baseUrl: 'http://127.0.0.1:1' });
    await assert.rejects(nobody.json('GET', '/'), { code: 'SITE_UNAVAILABLE' });
    await using noSocket = createHttpClient({ baseUrl: 'http://x', socketPath: '/nowhere' });
    await assert.rejects(noSocket.json('GET', '/'), { code: 'SITE_UNAVAILABLE' });
  });

  it("leaves the caller's own abort what it is", async () => {
    const signal = AbortSignal.abort();
    await assert.rejects(client.json('GET', '/echo', undefined, { signal }), {
      name: 'AbortError',
    });
  });
});
