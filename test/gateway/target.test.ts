import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { isHost, keepRequestHeaders, keepResponseHeaders } from '../../gateway/headers.js';
import { parseTarget } from '../../gateway/target.js';

describe('request targets', () => {
  const good = [
    ['/VSITE/rest/core', 'VSITE', '/rest/core'],
    ['/VSITE', 'VSITE', '/'],
    ['/VSITE/', 'VSITE', '/'],
    ['/VSITE?a=b', 'VSITE', '/?a=b'],
    ['/', '', '/'],
    ['/?sort=NAME', '', '/?sort=NAME'],
    ['//VSITE//rest///core//', 'VSITE', '/rest/core'],
    ['/VSITE/jobs/?offset=2&q=//x/../', 'VSITE', '/jobs?offset=2&q=//x/../'],
    ['/VSITE/files/a%2Fb%2f..%20c', 'VSITE', '/files/a%2Fb%2f..%20c'],
    ['/VSITE/a/./b/../c', 'VSITE', '/a/c'],
    ['/VSITE/a/%2E%2e/c', 'VSITE', '/c'],
    ['/VSITE/.hidden/..x/...', 'VSITE', '/.hidden/..x/...'],
    ['/VSITE/a%00b', 'VSITE', '/a%00b'],
    ['https://elsewhere/VSITE/rest', 'VSITE', '/rest'],
  ] as const;
  for (const [url, site, path] of good)
    it(`${url} is ${path} of "${site}"`, () => assert.deepEqual(parseTarget(url), { site, path }));

  const bad = ['/..', '/VSITE/..', '/VSITE/../IMAGES/x', '/VSITE/a/../../IMAGES', '/%2e%2e/VSITE'];
  for (const url of [
    ...bad,
    '/VSITE/%2e./%2e%2E/x',
    '/VSITE/a\\..\\b',
    '/VSITE/a#b',
    '*',
    'VSITE',
    '',
  ])
    it(`refuses "${url}"`, () => assert.equal(parseTarget(url), undefined));
});

describe('headers', () => {
  it('from clients lose what only a gateway says and what is about the connection', () => {
    const raw = [
      ...['Host', 'h', 'Accept', 'a', 'Connection', 'close', 'TE', 'trailers', 'Upgrade', 'x'],
      ...['X-UNICORE-Consignor', '1', 'x-unicore-consignor-ip', '2', 'X-Unicore-Gateway', '3'],
      ...['X-Forwarded-For', '4', 'x-forwarded-host', '5', 'Forwarded', '6', 'X-Request-Id', '7'],
      ...['X_UNICORE_CONSIGNOR', '8', 'X-UNICORE_Gateway', '9', 'Transfer-Encoding', 'chunked'],
      ...['X-UNICORE-SecuritySession', 's', 'X-UNICORE-User-Preferences', 'a:b', 'Cookie', 'c'],
    ];
    assert.deepEqual(keepRequestHeaders(raw, 'close'), [
      ...['Accept', 'a', 'X-UNICORE-SecuritySession', 's', 'X-UNICORE-User-Preferences', 'a:b'],
      ...['Cookie', 'c'],
    ]);
  });
  it('that Connection names go with it, framing excepted', () => {
    const raw = ['X-A', '1', 'Content-Length', '2', 'X-B', '3'];
    assert.deepEqual(keepRequestHeaders(raw, 'close, X-a, content-length'), [
      ...['Content-Length', '2', 'X-B', '3'],
    ]);
  });
  it('from sites keep repetitions and lose what the gateway sets', () => {
    const raw = ['Set-Cookie', 'a', 'set-cookie', 'b', 'Date', 'd', 'X-Frame-Options', 'ALLOW'];
    assert.deepEqual(keepResponseHeaders(raw, undefined), ['Set-Cookie', 'a', 'set-cookie', 'b']);
  });
  for (const host of ['localhost', 'h:8080', 'a-b.example.org', '[::1]:443', '127.0.0.1:1'])
    it(`"${host}" is a host`, () => assert.ok(isHost(host)));
  for (const host of [
    '',
    'a b',
    'a/b',
    'a:b',
    'a@b',
    'h:123456',
    '[x]',
    'a"b',
    '<b>',
    'a'.repeat(300),
  ])
    it(`"${host.slice(0, 10)}" is no host`, () => assert.ok(!isHost(host)));
});
