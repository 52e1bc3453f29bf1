import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import type { IncomingHttpHeaders } from 'node:http';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { decodeJwt } from 'jose';
import { loadConfig } from '#kernel/config.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { LoginCookie } from '#gateway/api-tokens/login-cookie.js';
import { GatewayConfig } from '#gateway/main.js';
import { GatewayServer } from '#gateway/server.js';
import { startTargetsystem, TargetsystemConfig } from '#targetsystem/main.js';
import {
  oidcClient,
  startOidcProvider,
  type RunningOidcProvider,
} from '../kernel/security/oidc-provider.js';
import { ShiftedClock } from '../targetsystem/shifted-clock.js';
import { Browser, type Page, type Visit } from './browser.js';
import { startRig, type Rig } from './rig.js';

/**
 * Real sites, a real provider, and the gateway between them; the browser is ours. `TOLD` is a site that writes down
 * what it is sent.
 */
describe('tokens for users of an OpenID Connect provider', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: Rig;
  let provider: RunningOidcProvider;
  let user: string | undefined = 'jane';
  let apiTokens: NonNullable<Parameters<Rig['reconfigure']>[0]['apiTokens']>;
  let sites: Record<string, string>;
  const told: { url: string; headers: IncomingHttpHeaders }[] = [];
  let callback: string;

  before(async () => {
    rig = scope.use(
      await startRig((request, response) => {
        told.push({ url: request.url ?? '', headers: request.headers });
        response.setHeader('service-worker-allowed', '/');
        response.end(request.url?.includes('long') ? 'x'.repeat(20_000) : '<b>no token</b>');
      }),
    );
    callback = `${rig.gateway.url}/generate-token/callback`;
    provider = scope.use(await startOidcProvider({ redirectUris: [callback], user: () => user }));
    const at = (name: string) => join(rig.directory, name);
    await writeFile(at('provider.pem'), provider.ca);
    await writeFile(at('client.secret'), `${oidcClient.secret}\n`);
    const here = await startSite('HERE', { unix: at('here.sock') });
    const tls = rig.credentials.server;
    const there = await startSite('THERE', { host: 'localhost', port: 0, tls });
    apiTokens = {
      ...{ issuer: provider.issuer, clientId: oidcClient.id },
      ...{ clientSecretFile: at('client.secret'), caFile: at('provider.pem') },
    };
    sites = {
      ...{ HERE: here, THERE: there },
      ...{ TOLD: `unix:${at('site.sock')}`, DOWN: `unix:${at('nobody.sock')}` },
    };
    await rig.reconfigure({ apiTokens, sites, cors: { origins: ['https://portal.example'] } });
  });
  after(() => scope.close());

  /** @returns its address as the gateway has it */
  async function startSite(siteName: string, listen: object): Promise<string> {
    const state = join(rig.directory, siteName);
    await mkdir(state);
    await writeFile(join(state, 'users.yaml'), 'users: []\n', { mode: 0o600 });
    const caFile = join(rig.directory, 'provider.pem');
    const site = await startTargetsystem(
      TargetsystemConfig.parse({
        ...{ siteName, listen, externalUrl: `${rig.gateway.url}/${siteName}` },
        credential: siteName === 'HERE' ? rig.credentials.server : rig.credentials.tsi,
        consignorFiles: [rig.credentials.consignor.certFile],
        usersFile: join(state, 'users.yaml'),
        // without a login a token tells nothing but a name
        bearers: {
          oidc: [
            {
              ...{ issuer: provider.issuer, clientId: oidcClient.id, caFile },
              loginClaim: 'preferred_username',
            },
          ],
        },
        xnjs: {
          stateDirectory: state,
          database: { url: `sqlite:${join(state, 'site.sqlite')}` },
          hypervisor: {},
          images: { url: 'http://images', socket: join(state, 'none.sock') },
        },
      }),
      { log: silentLog },
    );
    scope.defer(() => site.close());
    return 'unix' in listen ? `unix:${String(listen.unix)}` : `https://localhost:${site.port!}`;
  }

  const browserOf = (tls?: object) => new Browser([rig.ca, provider.ca], tls);
  const form = { site: ['HERE'], lifetime: '600', userprefs: '' };
  const ask = (browser: Browser, more: Visit['form'] = {}): Promise<Page> =>
    browser.visit(`${rig.gateway.url}/generate-token`, { form: { ...form, ...more } });
  const departureOf = ({ body }: Page): string =>
    /http-equiv="refresh" content="0; url=([^"]+)"/.exec(body)![1]!.replaceAll('&amp;', '&');
  /** All the way to the provider and back, but for the last step. */
  async function login(browser: Browser, more: Visit['form'] = {}): Promise<URL> {
    const isBack = ({ origin }: URL) => origin === rig.gateway.url;
    const { url } = await browser.follow(departureOf(await ask(browser, more)), isBack);
    return url;
  }
  const tokenIn = ({ body }: Page, site: string): string | undefined =>
    new RegExp(`id="token-${site}">([^<]+)<`).exec(body)?.[1];

  it('are asked for by a form, got by one login, and good at the sites', async () => {
    const browser = browserOf(rig.asUser);
    const front = await browser.visit(rig.gateway.url);
    assert.match(front.body, /<a href="\/generate-token">/);
    const offered = await browser.visit(`${rig.gateway.url}/generate-token`);
    for (const name of Object.keys(sites)) assert.ok(offered.body.includes(`value="${name}"`));
    const back = await login(browser, {
      ...{ site: ['HERE', 'THERE', 'TOLD', 'DOWN'], lifetime: '1234' },
      ...{ limited: 'true', renewable: 'true', userprefs: 'role:user' },
    });
    const page = await browser.visit(back);
    assert.equal(page.status, 200, page.body);
    for (const name of ['HERE', 'THERE']) {
      const token = tokenIn(page, name)!;
      const { sub, exp, iat, aud, iss, renewable } = decodeJwt(token);
      assert.deepEqual([sub, exp! - iat!, aud, renewable], ['CN=jane,O=OIDC', 1234, iss, 'true']);
      const headers = { authorization: `Bearer ${token}` };
      const { status, body } = await rig.request({ path: `/${name}/rest/core`, headers });
      const { client } = JSON.parse(body) as { client: { dn: string } };
      assert.deepEqual([status, client.dn], [200, 'CN=jane,O=OIDC']);
      const other = name === 'HERE' ? 'THERE' : 'HERE';
      assert.equal((await rig.request({ path: `/${other}/rest/core`, headers })).status, 403);
    }
    assert.notEqual(tokenIn(page, 'HERE'), tokenIn(page, 'THERE'));
    assert.ok(page.body.includes(`curl --oauth2-bearer`));
    assert.match(
      page.body,
      /TOLD[^]*its answer is no token[^]*DOWN[^]*not available at the moment/,
    );
    assert.ok(!page.body.includes('<b>no token</b>') && !page.body.includes(rig.directory));
    const { url, headers } = told.at(-1)!;
    assert.equal(url, '/rest/core/token?lifetime=1234&renewable=true&limited=true');
    assert.equal(headers['x-unicore-user-preferences'], 'role:user');
    assert.equal(headers['x-unicore-gateway'], `${rig.gateway.url}/TOLD`);
    assert.equal(headers['x-unicore-consignor'], undefined, 'the certificate is no part of it');
    const shown = /^Bearer (.+)$/.exec(headers.authorization!)![1]!;
    assert.equal(await provider.isGood(shown), false, 'the sites cannot use it any more');
    const secrets = [shown, back.searchParams.get('code')!, tokenIn(page, 'HERE')!];
    for (const line of rig.lines.map((each) => JSON.stringify(each)))
      assert.ok(!secrets.some((secret) => line.includes(secret)), line);
  });

  it('are on pages that nobody keeps, frames, scripts or is told the address of', async () => {
    const browser = browserOf();
    const offered = await browser.visit(`${rig.gateway.url}/generate-token`);
    const departure = await ask(browser);
    const [cookie] = departure.headers['set-cookie']!;
    assert.match(cookie!, /^__Host-[^;]+; Max-Age=600; Path=\/; Secure; HttpOnly; SameSite=Lax$/);
    const page = await browser.follow(departureOf(departure));
    assert.match(String(page.headers['set-cookie']), /^__Host-[^=]+=; Max-Age=0; Path=\/; Secure/);
    for (const [{ headers }, sandboxed] of [
      [offered, false],
      [departure, false],
      [page, true],
    ] as const) {
      const policy = String(headers['content-security-policy']).split('; ');
      assert.ok(policy.includes("default-src 'none'") && policy.includes("frame-ancestors 'none'"));
      assert.equal(policy.includes('sandbox'), sandboxed);
      assert.deepEqual(
        [headers['cache-control'], headers['x-frame-options'], headers['x-content-type-options']],
        ['no-store', 'DENY', 'nosniff'],
      );
      assert.match(String(headers['referrer-policy']), /^(?:no-referrer|same-origin)$/);
    }
    const query = new URL(departureOf(departure)).searchParams;
    assert.deepEqual(
      ['response_type', 'code_challenge_method', 'prompt', 'scope'].map((name) => query.get(name)),
      ['code', 'S256', 'login', 'openid profile'],
    );
    assert.ok(query.get('nonce') && query.get('state'));
    assert.ok(!cookie!.includes(query.get('state')!), 'sites see the cookie, too');
  });

  it('are not given for a login a second time, in another browser, or of another one', async () => {
    const browser = browserOf();
    const back = await login(browser);
    const cookie = browser.cookiesOf(rig.gateway.url);
    const stranger = await browserOf().visit(back);
    assert.deepEqual([stranger.status, tokenIn(stranger, 'HERE')], [400, undefined]);
    assert.match(stranger.body, /no login is under way in this browser/);
    const other = new URL(back);
    other.searchParams.set('state', 'x');
    const forged = await browser.visit(other);
    assert.equal(forged.status, 400);
    assert.match(forged.body, /the answer to another login/);
    assert.equal((await browser.visit(back, { method: 'HEAD' })).status, 405);
    assert.ok(tokenIn(await browser.visit(back), 'HERE'), 'and it has not been lost by all that');
    assert.match((await browser.visit(back)).body, /no login is under way/);
    const replayed = await browser.visit(back, { headers: { cookie } });
    assert.equal(replayed.status, 400);
    assert.match(replayed.body, /this login has been used already/);
  });

  it('are not given to a user who refuses, whose words are not taken for HTML', async () => {
    user = undefined;
    const page = await browserOf().visit(await login(browserOf()).catch(() => callback));
    user = 'jane';
    assert.equal(page.status, 400, 'a browser that began nothing');
    const browser = browserOf();
    user = undefined;
    const refused = await browser.visit(await login(browser));
    user = 'jane';
    assert.equal(refused.status, 403);
    assert.match(refused.body, /access_denied, &lt;b&gt;not&lt;\/b&gt; today/);
  });

  it('are asked for by no page of another origin', async () => {
    const browser = browserOf();
    const address = `${rig.gateway.url}/generate-token`;
    for (const origin of ['https://evil.example', 'https://portal.example']) {
      const headers = { origin, 'sec-fetch-site': 'cross-site' };
      const page = await browser.visit(address, { form, headers });
      assert.equal(page.status, 403, origin);
      assert.equal(page.headers['set-cookie'], undefined);
    }
    const headers = { origin: 'https://portal.example' };
    const { headers: answered } = await browser.visit(address, { headers });
    assert.equal(answered['access-control-allow-origin'], undefined);
    // a form of ours that is not to tell where it is
    const opaque = { origin: 'null', 'sec-fetch-site': 'same-origin' };
    assert.equal((await browser.visit(address, { form, headers: opaque })).status, 200);
  });

  const wrong: readonly (readonly [string, Visit['form'], RegExp])[] = [
    ['no site', { site: [] }, /site: choose at least one/],
    ['a site that there is not', { site: 'OTHER' }, /site: OTHER gives no tokens here/],
    ['no lifetime', { lifetime: '' }, /lifetime: must be 1 to/],
    ['a lifetime that is no number', { lifetime: '1e3' }, /lifetime: must be 1 to/],
    ['a lifetime of ages', { lifetime: '999999999' }, /lifetime: must be 1 to/],
    ['odd preferences', { userprefs: 'role' }, /userprefs: .*must be key:value pairs/],
    ['a header in them', { userprefs: 'role:user\r\nX: y' }, /userprefs: at most 512/],
    ['too much', { userprefs: 'x'.repeat(10_000) }, /the form is too long/],
  ];
  for (const [what, more, reason] of wrong)
    it(`say what is wrong with ${what}`, async () => {
      const page = await ask(browserOf(), more);
      assert.ok([400, 413].includes(page.status), `${page.status}`);
      assert.match(page.body, reason);
      assert.equal(page.headers['set-cookie'], undefined);
    });

  it('leave files of that name to the sites, and other addresses too', async () => {
    const browser = browserOf();
    const at = (path: string, visit?: Visit) => browser.visit(rig.gateway.url + path, visit);
    assert.match((await at('/portal/generate-token/create?x=y')).body, /<form[^>]+method="post"/);
    await at('/TOLD/rest/core/storages/HOME/files/generate-token');
    assert.equal(told.at(-1)!.url, '/rest/core/storages/HOME/files/generate-token');
    assert.equal((await at('/generate-token/create', { form })).status, 404);
    const { headers } = await at('/TOLD/worker.js');
    assert.equal(headers['service-worker-allowed'], undefined, 'no site controls these pages');
  });

  it('come from where the configuration says, by whatever process has the answer', async () => {
    const at = rig.gateway.url;
    await rig.reconfigure({
      sites,
      apiTokens: {
        ...apiTokens,
        ...{ authentication: 'post', prompt: 'consent', lifetimeSeconds: 77 },
        endpoints: { authorization: `${provider.issuer}/auth`, token: `${provider.issuer}/token` },
        sites: { HERE: `${sites['THERE']!}/rest/core/token`, TOLD: '/long' },
      },
    });
    const browser = browserOf();
    const offered = await browser.visit(`${at}/generate-token`);
    assert.equal(/value="(\d+)"/.exec(offered.body)?.[1], '77');
    assert.ok(!offered.body.includes('value="THERE"'));
    const ticketSecret = Buffer.alloc(48, 7);
    const config = await loadConfig(rig.configFile, GatewayConfig);
    await using first = await startWorker(config, ticketSecret);
    await using second = await startWorker(config, ticketSecret);
    const asked = { form: { ...form, site: ['HERE', 'TOLD'] }, port: first.port };
    const departure = await browser.visit(`${at}/generate-token`, asked);
    assert.equal(new URL(departureOf(departure)).searchParams.get('prompt'), 'consent');
    const isBack = ({ origin }: URL) => origin === at;
    const { url } = await browser.follow(departureOf(departure), isBack);
    const page = await browser.visit(url, { port: second.port });
    assert.equal(page.status, 200, page.body);
    const { aud, iss, sub } = decodeJwt(tokenIn(page, 'HERE')!);
    assert.deepEqual([sub, aud], ['CN=jane,O=OIDC', undefined]);
    assert.match(iss!, /CN=tsi|TSI/i, 'the other server has signed it');
    assert.match(page.body, /its answer is too long/);
  });

  /** One of the processes that serve a gateway's clients. */
  async function startWorker(config: GatewayConfig, ticketSecret: Buffer) {
    const listen = { host: 'localhost', port: 0 };
    const server = await GatewayServer.start(
      { ...config, listen },
      { log: silentLog, ticketSecret },
    );
    return {
      port: Number(new URL(server.url).port),
      [Symbol.asyncDispose]: () => server.close(),
    };
  }

  it('are not given while the provider does not know the gateway, is away, or when off', async () => {
    const other = join(rig.directory, 'other.secret');
    await writeFile(other, 'wrong');
    await rig.reconfigure({ sites, apiTokens: { ...apiTokens, clientSecretFile: other } });
    const browser = browserOf();
    const unknown = await browser.visit(await login(browser));
    assert.equal(unknown.status, 502);
    assert.match(unknown.body, /refuses this gateway/);
    await rig.reconfigure({ sites, apiTokens: { ...apiTokens, issuer: 'https://127.0.0.1:1' } });
    const away = await ask(browser);
    assert.equal(away.status, 503);
    assert.match(away.body, /https:\/\/127\.0\.0\.1:1 does not answer/);
    await rig.reconfigure({ sites });
    assert.equal((await browser.visit(`${rig.gateway.url}/generate-token`)).status, 404);
    assert.ok(!(await browser.visit(rig.gateway.url)).body.includes('generate-token'));
  });

  const mistakes: readonly (readonly [string, object, RegExp])[] = [
    ['a provider by http', { issuer: 'http://op' }, /apiTokens\.issuer: must be an https URL/],
    ['a scope without openid', { scope: 'profile' }, /apiTokens\.scope: must contain openid/],
    ['a site of nobody', { sites: { X: '/t' } }, /apiTokens\.sites: must be among sites/],
    ['an odd address', { sites: { HERE: 'http://a/t' } }, /apiTokens\.sites\.HERE: must be a path/],
    ['an address with a query', { sites: { HERE: '/t?x' } }, /apiTokens\.sites\.HERE: must be/],
  ];
  for (const [what, change, reason] of mistakes)
    it(`do not come by a configuration with ${what}`, async () => {
      const file = join(rig.directory, 'wrong.yaml');
      const config = {
        tls: { ...rig.credentials.gateway, trustFiles: ['x'] },
        listen: { port: 0 },
      };
      const whole = {
        ...config,
        sites,
        signingKeyFile: 'x',
        apiTokens: { ...apiTokens, ...change },
      };
      await writeFile(file, JSON.stringify(whole));
      await assert.rejects(loadConfig(file, GatewayConfig), reason);
    });
});

describe('a login that is under way', () => {
  const clock = new ShiftedClock();
  const cookie = new LoginCookie(Buffer.alloc(48, 1), clock);
  const wish = { sites: ['HERE'], lifetimeSeconds: 60, renewable: false, limited: true };
  const login = {
    ...{ wish, issuer: 'https://op.example', origin: 'https://grid.example' },
    ...{ state: 'a', nonce: 'b', verifier: 'c' },
  };
  const sent = async (more: object = {}) =>
    (await cookie.seal({ ...login, ...more })).replace(/;.*/s, '');

  it('is known again, by every process with the same secret, among other cookies', async () => {
    const header = `x=y; ${await sent()}; z=`;
    assert.deepEqual(await cookie.open(header), login);
    assert.deepEqual(await new LoginCookie(Buffer.alloc(48, 1), clock).open(header), login);
  });
  it('is not one that was made elsewhere, or changed', async () => {
    const header = await sent();
    assert.equal(await new LoginCookie(Buffer.alloc(48, 2), clock).open(header), undefined);
    assert.equal(await cookie.open(`${header.slice(0, -2)}AA`), undefined);
    assert.equal(await cookie.open('__Host-vsite-login='), undefined);
    assert.equal(await cookie.open(undefined), undefined);
  });
  it('is over after ten minutes', async () => {
    const header = await sent();
    clock.advance(599_000);
    assert.deepEqual(await cookie.open(header), login);
    clock.advance(2_000);
    assert.equal(await cookie.open(header), undefined);
  });
  it('is not longer than what browsers keep', async () => {
    const sites = Array.from({ length: 100 }, (_, at) => `site-with-quite-a-long-name-${at}`);
    await assert.rejects(sent({ wish: { ...wish, sites } }), /site: choose fewer/);
  });
});
