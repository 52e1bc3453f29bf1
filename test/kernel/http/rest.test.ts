import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { Readable } from 'node:stream';
import { text as readText } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { request, type Dispatcher } from 'undici';
import { z } from 'zod';
import { GridError } from '#kernel/errors.js';
import { anonymous } from '#kernel/http/caller.js';
import { listParameter } from '#kernel/http/fields.js';
import { listen } from '#kernel/http/listen.js';
import { adminOnly, authenticated, everybody, operations } from '#kernel/http/operation.js';
import { created, json, noContent, stream, text } from '#kernel/http/reply.js';
import { createRestApp, mount, type Authenticate } from '#kernel/http/router.js';
import { createLog } from '#kernel/log.js';
import { LendingStream } from '#kernel/net/lending-stream.js';
import { Scope } from '#kernel/scope.js';
import type { SecurityDecision } from '#kernel/security/audit.js';

type Deps = { readonly greeting: string };
const operation = operations<Deps>();
const id = z.string();
/** What the streams of this test have seen. */
const events: string[] = [];
const decisions: SecurityDecision[] = [];

const things = [
  operation({
    method: 'GET',
    path: '/things/:id',
    summary: 'Shows a thing',
    input: z.strictObject({ id, n: z.coerce.number().optional() }),
    policy: everybody,
    run: ({ greeting }, input, { caller, url, baseUrl }) =>
      json({ greeting, ...input, dn: caller.dn, url, baseUrl, none: undefined }),
  }),
  operation({
    method: 'PUT',
    path: '/things/:id',
    summary: 'Changes a thing',
    input: z.looseObject({ id, n: z.string().optional() }),
    body: 'json',
    query: ['n'],
    bodyLimit: 1000,
    policy: authenticated,
    run: (_, input) => json(input),
  }),
  operation({
    method: 'DELETE',
    path: '/things/:id',
    summary: 'Ends a thing',
    input: z.strictObject({ id }),
    policy: adminOnly,
    run: () => noContent(),
  }),
  operation({
    method: 'POST',
    path: '/things',
    summary: 'Makes a thing',
    input: z.strictObject({}),
    body: 'json',
    policy: everybody,
    run: (_, __, { url }) => created(`${url}/7`),
  }),
  operation({
    method: 'POST',
    path: '/things/:id',
    summary: 'Touches a thing, whatever the body',
    input: z.strictObject({ id }),
    policy: everybody,
    run: () => noContent(),
  }),
  operation({
    method: 'GET',
    path: '/files{/*path}',
    summary: 'Shows where a path ends up',
    input: z.strictObject({ path: z.string().default('') }),
    policy: everybody,
    run: (_, { path }) => json({ path }),
  }),
  operation({
    method: 'PUT',
    path: '/files/*path',
    summary: 'Counts the bytes of an upload',
    input: z.strictObject({ path: z.string() }),
    body: 'raw',
    policy: authenticated,
    run: async (_, __, { body }) => json({ bytes: (await readText(body)).length }),
  }),
  operation({
    method: 'GET',
    path: '/token',
    summary: 'Gives plain text only',
    input: z.strictObject({}),
    produces: ['text/plain'],
    policy: everybody,
    run: () => text('abc'),
  }),
  operation({
    method: 'GET',
    path: '/fails/:how',
    summary: 'Fails',
    input: z.strictObject({ how: z.enum(['known', 'unknown', 'halfway', 'header', 'at once']) }),
    policy: everybody,
    run: (_, { how }) => {
      if (how === 'known') throw new GridError('TSI_UNAVAILABLE', 'no TSI answers');
      if (how === 'unknown') throw new TypeError('secret detail');
      if (how === 'header') return { ...json({}), headers: { 'content-type': 'text/plain\n;a' } };
      if (how === 'at once') return stream(new LendingStream(() => refusedAtOnce()));
      return stream(Readable.from(halfOfIt()));
    },
  }),
  operation({
    method: 'GET',
    path: '/endless',
    summary: 'Streams until the client goes away',
    input: z.strictObject({}),
    policy: everybody,
    run: (_, __, { signal }) => {
      signal.addEventListener('abort', () => events.push('aborted'));
      const source = new Readable({ read: () => void source.push(Buffer.alloc(1000)) });
      return stream(source.once('close', () => events.push('destroyed')));
    },
  }),
];

async function* halfOfIt(): AsyncGenerator<string> {
  yield 'half';
  await Promise.resolve();
  throw new TypeError('secret detail');
}

async function* refusedAtOnce(): AsyncGenerator<Buffer, void, undefined> {
  await Promise.reject(new GridError('FORBIDDEN', 'not yours'));
  yield Buffer.alloc(0);
}

const byHeader: Authenticate = ({ headers }, response) => {
  response.setHeader('x-session', 'seen');
  if (headers['x-role'] === 'wrong') throw new GridError('UNAUTHENTICATED', 'who are you');
  const role = headers['x-role'];
  return typeof role === 'string' ? { dn: 'CN=Test', role } : anonymous;
};

describe('operation records behind HTTP', () => {
  const scope = new Scope();
  const logged: Record<string, unknown>[] = [];
  let origin: string;
  let port: number;

  before(async () => {
    const log = createLog({
      stream: { write: (line) => void logged.push(JSON.parse(line) as Record<string, unknown>) },
    });
    const app = createRestApp({
      mounts: [mount('/rest', things, { greeting: 'hello' })],
      authenticate: byHeader,
      externalUrl: 'https://configured.example/SITE/',
      log,
      audit: (decision) => decisions.push(decision),
    });
    const listening = await listen(app, { host: '127.0.0.1', port: 0 }, scope);
    port = listening.port!;
    origin = `http://127.0.0.1:${port}`;
  });
  after(() => scope.close());

  type Options = Parameters<typeof request>[1];
  async function ask(method: Dispatcher.HttpMethod, path: string, options: Options = {}) {
    const answer = await request(origin + path, { method, ...options });
    const content = await answer.body.text();
    const isJson = String(answer.headers['content-type']).startsWith('application/json');
    const body = isJson && content ? (JSON.parse(content) as Record<string, unknown>) : content;
    return { status: answer.statusCode, headers: answer.headers, body };
  }
  const status = async (...parameters: Parameters<typeof ask>) => (await ask(...parameters)).status;
  const jsonHeaders = { 'content-type': 'application/json', 'x-role': 'user' };
  const put = (body: string, headers: Record<string, string> = jsonHeaders) =>
    ask('PUT', '/rest/things/7', { body, headers });

  it('run with dependencies, input and context', async () => {
    const { body, headers } = await ask('GET', '/rest/things/a%20b?n=3');
    assert.deepEqual(body, {
      greeting: 'hello',
      id: 'a b',
      n: 3,
      dn: anonymous.dn,
      url: 'https://configured.example/SITE/rest/things/a%20b',
      baseUrl: 'https://configured.example/SITE',
    });
    assert.equal(headers['x-session'], 'seen');
  });

  it('take the address from the gateway, unless it is no address', async () => {
    const url = async (gateway: string) => {
      const answer = await ask('GET', '/rest/things/7', {
        headers: { 'x-unicore-gateway': gateway },
      });
      return (answer.body as { baseUrl: string }).baseUrl;
    };
    assert.equal(await url('https://gw:8080/OTHER'), 'https://gw:8080/OTHER');
    assert.equal(await url('https://gw/"><script>'), 'https://configured.example/SITE');
    assert.equal(await url('javascript:alert(1)'), 'https://configured.example/SITE');
  });

  it('are found with a slash at the end, and with HEAD', async () => {
    assert.equal(await status('GET', '/rest/things/7/'), 200);
    const whole = await ask('GET', '/rest/things/7');
    const head = await ask('HEAD', '/rest/things/7');
    assert.equal(head.status, 200);
    assert.equal(head.body, '');
    assert.equal(head.headers['content-length'], whole.headers['content-length']);
  });

  it('get the rest of a path joined by slashes', async () => {
    const path = async (url: string) => ((await ask('GET', url)).body as { path: string }).path;
    assert.equal(await path('/rest/files'), '');
    assert.equal(await path('/rest/files/a/b%20c'), 'a/b c');
    assert.equal(await path('/rest/files/..%2F..'), '../..');
  });

  it('answer 404, 405 with the allowed methods, 406', async () => {
    assert.equal(await status('GET', '/rest/nothing'), 404);
    const wrong = await ask('POST', '/rest/files/7');
    assert.equal(wrong.status, 405);
    assert.equal(wrong.headers['allow'], 'GET, HEAD, PUT');
    const accept = (type: string) => ({ headers: { accept: type } });
    assert.equal(await status('GET', '/rest/token', accept('application/json')), 406);
    assert.equal(await status('GET', '/rest/token', accept('text/plain')), 200);
    assert.equal(await status('GET', '/rest/things/7', accept('text/html, */*;q=0.1')), 200);
    assert.equal(await status('GET', '/rest/things/%zz'), 400);
  });

  it('create with an address and without a body', async () => {
    const answer = await ask('POST', '/rest/things');
    assert.equal(answer.status, 201);
    assert.equal(answer.headers['location'], 'https://configured.example/SITE/rest/things/7');
    assert.equal(answer.body, '');
  });

  it('read JSON as clients write it', async () => {
    const { body } = await put(`{'tags': 'test123', other: [1, 2,],}`);
    assert.deepEqual(body, { tags: 'test123', other: [1, 2], id: '7' });
    assert.deepEqual((await put('')).body, { id: '7' });
  });

  it('know a thing by its path, whatever the body says', async () => {
    assert.deepEqual((await put('{"id": "8"}')).body, { id: '7' });
  });

  const bad: readonly (readonly [string, string, number])[] = [
    ['no object', '[1]', 400],
    ['no JSON', '{"a": ', 400],
    ['a number that no computer has', '{"a": 1e999}', 400],
    ['a number that would lose digits', '{"a": 12345678901234567890}', 400],
    ['a thousand levels', `{"a":${'['.repeat(450)}${']'.repeat(450)}}`, 400],
    ['more than its limit', JSON.stringify({ a: 'x'.repeat(1000) }), 413],
  ];
  for (const [what, body, expected] of bad)
    it(`refuse a body with ${what}`, async () => {
      assert.equal((await put(body)).status, expected);
    });

  it('refuse more than the limit also when it is not announced', async () => {
    const body = Readable.from(['{"a":"', 'x'.repeat(2000), '"}']);
    const answer = await ask('PUT', '/rest/things/7', { body, headers: jsonHeaders });
    assert.equal(answer.status, 413);
  });

  it('refuse other types and compressed bodies', async () => {
    assert.equal((await put('a=1', { ...jsonHeaders, 'content-type': 'text/plain' })).status, 415);
    assert.equal((await put('{}', { ...jsonHeaders, 'content-encoding': 'gzip' })).status, 415);
    assert.equal((await put('{}', { 'content-type': 'application/json-seq' })).status, 415);
  });

  const forms = [
    'application/x-www-form-urlencoded',
    'Multipart/Form-Data; boundary=x',
    'text/plain',
  ];
  for (const type of forms)
    it(`refuse the form ${type}, with fields and without`, async () => {
      for (const path of ['/rest/things', '/rest/things/7'])
        for (const body of ['', 'a=1']) {
          const answer = await ask('POST', path, { body, headers: { 'content-type': type } });
          assert.equal(answer.status, 415, `${path} ${body}`);
        }
    });

  it('take from the query what their record names, and nothing else, where there is a body', async () => {
    const sent = { body: '{"tags": "a"}', headers: jsonHeaders };
    const { body } = await ask('PUT', '/rest/things/7?n=x', sent);
    assert.deepEqual(body, { n: 'x', tags: 'a', id: '7' });
    for (const [method, query] of [
      ['PUT', '?x=1'],
      ['PUT', '?tags=2'],
      ['POST', '?n=1'],
    ] as const) {
      const path = method === 'PUT' ? '/rest/things/7' : '/rest/things';
      const refused = await ask(method, path + query, { headers: jsonHeaders });
      assert.equal(refused.status, 400, query);
      assert.match(JSON.stringify(refused.body), /:"\w+: not taken from the query/);
    }
  });

  const own = 'https://configured.example';
  const senders: readonly (readonly [string, Record<string, string>, boolean])[] = [
    ['a program, which says nothing', {}, true],
    ['a page of this origin', { origin: own, 'sec-fetch-site': 'same-origin' }, true],
    ['such a page of an older browser', { origin: own }, true],
    ['such a page that keeps its address to itself', { origin: 'null', 'sec-fetch-site': 'same-origin' }, true], // prettier-ignore
    ['the user himself', { 'sec-fetch-site': 'none' }, true],
    ['a page of another site', { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' }, false], // prettier-ignore
    ['such a page of an older browser', { origin: 'https://evil.example' }, false],
    ['a page of another port', { origin: `${own}:8443`, 'sec-fetch-site': 'same-site' }, false],
    ['a page by plain HTTP', { origin: 'http://configured.example' }, false],
    ['a page of a longer name', { origin: `${own}.evil.example` }, false],
    ['a page that hides where it is from', { origin: 'null' }, false],
    ['a frame that may do nothing', { origin: 'null', 'sec-fetch-site': 'cross-site' }, false],
    ['a page whose origin is left out', { 'sec-fetch-site': 'cross-site' }, false],
    ['a page of a neighbour', { 'sec-fetch-site': 'same-site' }, false],
    ['a page that is from here and is not', { origin: own, 'sec-fetch-site': 'cross-site' }, false],
  ];
  for (const [who, headers, may] of senders)
    it(`${may ? 'change something' : 'change nothing, and say so in the audit,'} for ${who}`, async () => {
      const as = { headers: { ...headers, 'x-role': 'admin' } };
      const all = { ...as, headers: { ...as.headers, 'content-type': 'application/json' } };
      decisions.length = 0;
      assert.equal(await status('POST', '/rest/things', all), may ? 201 : 403);
      assert.equal(await status('POST', '/rest/things/7', as), may ? 204 : 403);
      assert.equal(await status('PUT', '/rest/things/7', { ...all, body: '{}' }), may ? 200 : 403);
      assert.equal(await status('PUT', '/rest/files/7', { ...as, body: 'x' }), may ? 200 : 403);
      assert.equal(await status('DELETE', '/rest/things/7', as), may ? 204 : 403);
      assert.equal(await status('GET', '/rest/things/7', as), 200);
      const refused = decisions.filter(({ why }) => why.startsWith('sent by a page of '));
      assert.equal(refused.length, may ? 0 : 5);
    });

  it('name the field of a wrong input, and refuse what is given twice', async () => {
    const unknown = await ask('GET', '/rest/things/7?n=x');
    assert.equal(unknown.status, 400);
    assert.match((unknown.body as { errorMessage: string }).errorMessage, /^n: /);
    assert.equal(await status('GET', '/rest/things/7?n=1&n=2'), 400);
    const both = { body: '{"n": "1"}', headers: jsonHeaders };
    assert.equal(await status('PUT', '/rest/things/7?n=2', both), 400);
    assert.equal(await status('GET', '/rest/things/7?colour=red'), 400);
  });

  it('refuse NUL in the query, which databases take for its end', async () => {
    const body = { body: '{}', headers: jsonHeaders };
    assert.equal(await status('PUT', '/rest/things/7?n=x', body), 200);
    assert.equal(await status('PUT', '/rest/things/7?n=x%00', body), 400);
    assert.ok(!listParameter.safeParse('a,b%00').success);
  });

  it('refuse callers by policy, banned ones always', async () => {
    const as = (role: string) => ({ headers: { 'x-role': role } });
    assert.equal(await status('DELETE', '/rest/things/7', as('user')), 403);
    assert.equal(await status('DELETE', '/rest/things/7', as('admin')), 204);
    assert.equal(await status('GET', '/rest/things/7', as('banned')), 403);
    const wrong = await ask('GET', '/rest/things/7', as('wrong'));
    assert.deepEqual(wrong.body, { errorMessage: 'who are you', status: 403 });
    assert.equal(wrong.headers['x-session'], 'seen');
  });

  it('answer a known error by its row, an unknown one without detail, logged once', async () => {
    const known = await ask('GET', '/rest/fails/known');
    assert.deepEqual(
      [known.status, known.body],
      [503, { errorMessage: 'no TSI answers', status: 503 }],
    );
    logged.length = 0;
    const answer = await ask('GET', '/rest/fails/unknown', { headers: { 'x-request-id': 'id-1' } });
    assert.equal(answer.status, 500);
    assert.deepEqual(answer.body, { errorMessage: 'internal server error', status: 500 });
    assert.equal(answer.headers['x-request-id'], 'id-1');
    const errors = logged.filter((line) => 'err' in line);
    assert.deepEqual(
      errors.map(({ reqId }) => reqId),
      ['id-1'],
    );
  });

  it('answer by an error where the answer cannot be given, and go on', async () => {
    const headers = await ask('GET', '/rest/fails/header');
    assert.deepEqual(headers.body, { errorMessage: 'internal server error', status: 500 });
    const body = await ask('GET', '/rest/fails/at%20once');
    assert.equal((body.body as { errorMessage: string }).errorMessage, 'not yours');
  });

  it('give a request an id of its own when the sender has none that is well formed', async () => {
    const headers = { 'x-request-id': 'x y' };
    const answer = await ask('GET', '/rest/things/7', { headers });
    assert.match(String(answer.headers['x-request-id']), /^[0-9a-f-]{36}$/);
  });

  it('cut an answer off that fails half way', async () => {
    await assert.rejects(ask('GET', '/rest/fails/halfway'));
  });

  it('are told when the client goes away, and their stream is destroyed', async () => {
    const { body } = await request(`${origin}/rest/endless`);
    body.on('error', () => undefined);
    body.destroy();
    const deadline = Date.now() + 5_000;
    while (events.length < 2 && Date.now() < deadline)
      await new Promise((resolve) => setTimeout(resolve, 5));
    assert.deepEqual(events.sort(), ['aborted', 'destroyed']);
  });

  it('let a client send its body only if they want it', async () => {
    const talk = (role: string) =>
      new Promise<string>((resolve) => {
        let heard = '';
        const socket = connect(port, '127.0.0.1').setEncoding('latin1');
        socket.on('data', (chunk: string) => {
          heard += chunk;
          if (heard.startsWith('HTTP/1.1 100') && heard.length < 40) socket.write('12345');
          if (/\r\n\r\n\{.*\}/.test(heard)) socket.end(() => resolve(heard));
        });
        socket.write(
          `PUT /rest/files/x HTTP/1.1\r\nHost: h\r\nX-Role: ${role}\r\n` +
            'Content-Length: 5\r\nExpect: 100-continue\r\n\r\n',
        );
      });
    assert.match(
      await talk('user'),
      /^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 200 OK[^]*"bytes":5/,
    );
    assert.match(await talk('banned'), /^HTTP\/1.1 403 /);
  });
});
