import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { request } from 'undici';
import { z } from 'zod';
import { html } from '#kernel/http/html/html.js';
import { anonymous } from '#kernel/http/caller.js';
import { authenticated, everybody, operations, RequestError } from '#kernel/http/operation.js';
import { listen } from '#kernel/http/listen.js';
import { json, text } from '#kernel/http/reply.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { silentLog } from '#kernel/log.js';
import { GridError } from '#kernel/errors.js';
import { Scope } from '#kernel/scope.js';

const browser = 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8';
const nasty = `<script>alert("1")</script>&'`;
const site = 'https://grid.example/SITE';

const operation = operations<object>();
const things = [
  operation({
    method: 'GET',
    path: '/things',
    summary: 'All things',
    input: z.object({ none: z.string().optional() }),
    policy: everybody,
    run: (_, { none }) =>
      json({
        things: none === undefined ? [`${site}/rest/core/things/a%20b`] : [],
        _links: {
          self: { href: `${site}/rest/core/things/?offset=2&num=1` },
          next: { href: `${site}/rest/core/things/?offset=3&num=1` },
          previous: { href: `${site}/rest/core/things/?offset=1&num=1` },
        },
      }),
  }),
  operation({
    method: 'GET',
    path: '/things/:id',
    summary: 'A thing',
    input: z.object({ id: z.string() }),
    policy: everybody,
    run: (_, { id }) => {
      if (id === 'none') throw new RequestError('NOT_FOUND', `there is no ${nasty}`);
      return json({
        name: nasty,
        status: 'SUCCESSFUL',
        [nasty]: nasty,
        tags: [nasty],
        log: ['first line', nasty],
        nested: { deep: { deeper: nasty } },
        trap: 'javascript:alert(1)',
        _links: {
          'action:abort': { href: `${site}/rest/core/things/x/actions/abort` },
          trap: { href: 'javascript:alert(1)' },
          other: { href: 'https://other.example/"><script>' },
          jobs: { href: `${site}/rest/core/jobs`, description: nasty },
        },
      });
    },
  }),
  operation({
    method: 'GET',
    path: '/plain',
    summary: 'Only text',
    input: z.object({}),
    produces: ['text/plain'],
    policy: everybody,
    run: () => text('plain'),
  }),
  operation({
    method: 'GET',
    path: '/mine',
    summary: 'What strangers do not see',
    input: z.object({}),
    policy: authenticated,
    run: (_, __, { caller }) => json({ dn: caller.dn }),
  }),
];

describe('pages for people', () => {
  const scope = new Scope();
  let origin: string;
  before(async () => {
    const app = createRestApp({
      mounts: [mount('/rest/core', things, {})],
      authenticate: () => ({ dn: 'CN=Someone', role: 'user' }),
      externalUrl: site,
      log: silentLog,
    });
    const { port } = await listen(app, { host: '127.0.0.1', port: 0 }, scope);
    origin = `http://127.0.0.1:${port}`;
  });
  after(() => scope.close());

  async function get(path: string, accept?: string) {
    const headers = accept === undefined ? {} : { accept };
    const answer = await request(origin + path, { headers });
    return {
      ...answer,
      type: String(answer.headers['content-type']),
      text: await answer.body.text(),
    };
  }

  for (const [accept, type] of [
    [undefined, 'application/json'],
    ['*/*', 'application/json'],
    ['application/json', 'application/json'],
    ['application/json, text/html', 'application/json'],
    ['text/html;q=0.5, application/json', 'application/json'],
    ['application/json, text/plain, */*', 'application/json'],
    ['text/html', 'text/html; charset=utf-8'],
    [browser, 'text/html; charset=utf-8'],
  ] as const)
    it(`Accept ${accept ?? 'absent'} gets ${type}, also when it fails`, async () => {
      const found = await get('/rest/core/things/x', accept);
      assert.deepEqual([found.statusCode, found.type], [200, type]);
      assert.match(String(found.headers['vary']), /accept/i);
      const missing = await get('/rest/core/things/none', accept);
      assert.equal(missing.statusCode, 404);
      assert.equal(missing.type.split(';')[0], type.split(';')[0]);
    });

  it('allow no script and no style but their own', async () => {
    for (const path of ['/rest/core/things/x', '/rest/core/things/none']) {
      const { headers, text: page } = await get(path, browser);
      const policy = String(headers['content-security-policy']);
      const style = /<style>([^]*?)<\/style>/.exec(page)?.[1] ?? '';
      const hash = createHash('sha256').update(style).digest('base64');
      assert.ok(policy.includes(`style-src 'sha256-${hash}'`), policy);
      assert.match(policy, /default-src 'none'/);
      assert.doesNotMatch(policy, /script-src|unsafe/);
      assert.doesNotMatch(page, /<script| style=| on\w+=/);
    }
  });

  it('escape whatever comes from people, and follow no address that is not of the web', async () => {
    const { text: page } = await get('/rest/core/things/x', browser);
    assert.doesNotMatch(page, /<script/);
    assert.ok(page.includes('&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;'));
    assert.doesNotMatch(page, /href="javascript/);
    assert.doesNotMatch(page, /other\.example/);
    const { text: missing } = await get('/rest/core/things/none', browser);
    assert.match(missing, /there is no &lt;script&gt;/);
  });

  it('lead on: entries, pages before and after, the way back, links; actions are told only', async () => {
    const { text: list } = await get('/rest/core/things', browser);
    const links = [...list.matchAll(/href="([^"]+)"[^>]*>([^<]*)</g)].map(([, href, name]) => [
      name,
      href,
    ]);
    for (const expected of [
      ['a b', `${site}/rest/core/things/a%20b`],
      ['Next →', `${site}/rest/core/things/?offset=3&amp;num=1`],
      ['← Previous', `${site}/rest/core/things/?offset=1&amp;num=1`],
      ['core', `${site}/rest/core`],
    ])
      assert.ok(
        links.some((link) => link.join() === expected.join()),
        expected.join(),
      );
    const { text: page } = await get('/rest/core/things/x', browser);
    assert.match(page, /<code>POST \/rest\/core\/things\/x\/actions\/abort<\/code>/);
    assert.doesNotMatch(page, /<form/);
    assert.match(page, /<span class="badge good"\s*>SUCCESSFUL<\/span\s*>/);
    assert.match((await get('/rest/core/things?none=1', browser)).text, /There are none/);
  });

  it('do not stand in for what is no JSON, and fail as pages', async () => {
    assert.equal((await get('/rest/core/plain', browser)).text, 'plain');
    const refused = await get('/rest/core/plain', 'text/html');
    assert.deepEqual([refused.statusCode, refused.type], [406, 'text/html; charset=utf-8']);
    const unknown = await get('/rest/nowhere/%3Cb%3E', browser);
    assert.equal(unknown.statusCode, 404);
    assert.match(unknown.text, /no such resource/);
    assert.match(unknown.text, /CN=Someone|Sign in/);
  });

  it('are made by a template that escapes', () => {
    const inner = html`<b>${'<i>'}</b>`;
    assert.equal(
      html`${inner}${undefined}${false}${['"', inner]}${0}`.toString(),
      ['<b>&lt;i&gt;</b>&quot;<b>&lt;i&gt;</b>0'].join(''),
    );
  });
});

describe('people who come without credentials', () => {
  const scope = new Scope();
  let origin: string;
  const who = (authorization = '') => {
    if (authorization === '') return anonymous;
    if (authorization === `Basic ${btoa('jane:right')}`) return { dn: 'CN=Jane', role: 'user' };
    if (authorization === `Basic ${btoa('unknown:right')}`)
      return { dn: 'CN=X', role: 'anonymous' };
    throw new GridError('UNAUTHENTICATED', 'credentials not accepted');
  };
  before(async () => {
    const app = createRestApp({
      mounts: [mount('/rest/core', things, {})],
      authenticate: ({ headers }) => who(headers.authorization),
      externalUrl: site,
      log: silentLog,
      api: { title: 'T', version: '1', description: 'D' },
    });
    const { port } = await listen(app, { host: '127.0.0.1', port: 0 }, scope);
    origin = `http://127.0.0.1:${port}`;
  });
  after(() => scope.close());

  async function get(path: string, accept: string, authorization?: string) {
    const headers = { accept, ...(authorization !== undefined && { authorization }) };
    const { statusCode, headers: answered, body } = await request(origin + path, { headers });
    return [statusCode, answered['www-authenticate'], await body.text()] as const;
  }
  const challenge = 'Basic realm="SITE", charset="UTF-8"';
  const basic = (text: string): string => `Basic ${btoa(text)}`;

  it('are asked for them where they are needed, and again if they are wrong', async () => {
    const [status, asked, page] = await get('/rest/core/mine', browser);
    assert.deepEqual([status, asked], [401, challenge]);
    assert.match(page, /<h1>Sign in<\/h1>[^]*HTTP 401/);
    assert.deepEqual((await get('/rest/core/mine', browser, basic('jane:x'))).slice(0, 2), [401, challenge]); // prettier-ignore
    assert.deepEqual((await get('/rest/core/mine', browser, basic('jane:right'))).slice(0, 2), [200, undefined]); // prettier-ignore
  });
  it('are not asked where that would not help', async () => {
    for (const [path, authorization, expected] of [
      ['/rest/core/things', undefined, 200],
      ['/rest/core/things/none', undefined, 404],
      ['/rest/core/mine', 'Bearer x', 403],
      ['/rest/core/mine', basic('unknown:right'), 403],
    ] as const) {
      const [status, asked] = await get(path, browser, authorization);
      assert.deepEqual([status, asked], [expected, undefined], path);
    }
  });
  it('are programs for all we know unless they want pages, and get 403', async () => {
    for (const accept of ['*/*', 'application/json', 'application/json, text/html'])
      for (const authorization of [undefined, basic('jane:x')]) {
        const answer = await get('/rest/core/mine', accept, authorization);
        assert.deepEqual(answer.slice(0, 2), [403, undefined], accept);
      }
  });
  it('can sign in from any page, for all of them', async () => {
    const [, , start] = await get('/rest/core/things', browser);
    assert.ok(start.includes(`<a href="${site}/rest/sign-in">Sign in</a>`));
    assert.deepEqual((await get('/rest/sign-in', browser)).slice(0, 2), [401, challenge]);
    const [status, , page] = await get('/rest/sign-in', browser, basic('jane:right'));
    assert.equal(status, 200);
    assert.match(page, /You are <code>CN=Jane<\/code>, with the role user/);
    assert.ok(page.includes(`<a href="${site}/rest/core">Start</a>`));
  });
});
