import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { request } from 'undici';
import { z } from 'zod';
import { html } from '#kernel/http/html/html.js';
import { everybody, operations, RequestError } from '#kernel/http/operation.js';
import { listen } from '#kernel/http/listen.js';
import { json, text } from '#kernel/http/reply.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { silentLog } from '#kernel/log.js';
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
    assert.match(unknown.text, /CN=Someone|not signed in/);
  });

  it('are made by a template that escapes', () => {
    const inner = html`<b>${'<i>'}</b>`;
    assert.equal(
      html`${inner}${undefined}${false}${['"', inner]}${0}`.toString(),
      ['<b>&lt;i&gt;</b>&quot;<b>&lt;i&gt;</b>0'].join(''),
    );
  });
});
