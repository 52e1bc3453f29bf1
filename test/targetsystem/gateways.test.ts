import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { loadConfig } from '#kernel/config.js';
import { asGridError } from '#kernel/errors.js';
import { createHttpClient } from '#kernel/http/client.js';
import { createLog, silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { GatewayConfig, startGateway } from '#gateway/main.js';
import { registerAtGateways } from '#targetsystem/registry/gateways.js';
import { startTargetsystem, TargetsystemConfig } from '#targetsystem/main.js';
import { startRig, type Rig } from '../gateway/rig.js';
import { until } from '../xnjs/job/rig.js';
import { ShiftedClock } from './shifted-clock.js';

const secret = 'correct horse battery';

/** The gateway is ours, as it is; another would do the same (unicore-rest 5.5). */
describe('a site that runs apart from its gateway', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let rig: Rig;
  let secretFile: string;
  let caFile: string;
  before(async () => {
    rig = scope.use(await startRig((_request, response) => response.end('behind')));
    secretFile = join(rig.directory, 'secret');
    caFile = rig.credentials.ca.certFile;
    await writeFile(secretFile, `${secret}\n`);
    await rig.reconfigure({ registration: { secretFile } });
  });
  after(() => scope.close());

  const configOf = (change: object): object => {
    const { server } = rig.credentials;
    return {
      siteName: 'APART',
      listen: { host: 'localhost', port: 0, tls: server },
      externalUrl: `${rig.gateway.url}/APART`,
      credential: server,
      consignorFiles: [rig.credentials.consignor.certFile],
      usersFile: join(rig.directory, 'users.yaml'),
      gateways: [{ url: rig.gateway.url, secretFile, caFile }],
      xnjs: {
        stateDirectory: join(rig.directory, 'state'),
        database: { url: `sqlite:${join(rig.directory, 'apart.sqlite')}` },
        hypervisor: {},
        images: { url: 'http://images', socket: join(rig.directory, 'none.sock') },
      },
      ...change,
    };
  };

  it('registers, is reached through it then, and shows that the gateway knows it', async () => {
    await writeFile(join(rig.directory, 'users.yaml'), 'users: []\n', { mode: 0o600 });
    await mkdir(join(rig.directory, 'state'));
    const site = await startTargetsystem(TargetsystemConfig.parse(configOf({})), {
      log: silentLog,
    });
    scope.defer(() => site.close());
    await using client = createHttpClient({ baseUrl: rig.gateway.url, tls: { ca: rig.ca } });
    const read = async () => (await client.json('GET', '/apart/rest/core')).body as Core;
    await until('the site is there', () => read().catch(() => undefined));
    const core = await read();
    const name = `Gateway ${rig.gateway.url}`;
    assert.equal(core.server.siteName, 'APART');
    assert.equal(core._links['jobs']!.href, `${rig.gateway.url}/APART/rest/core/jobs`);
    await until('it knows so', async () => {
      return (await read()).server.externalConnections[name] === 'OK';
    });
  });

  it('registers again at its interval, so that a gateway that starts anew learns of it', async () => {
    const clock = new ShiftedClock();
    const lines: Record<string, unknown>[] = [];
    const stream = {
      write: (line: string) => lines.push(JSON.parse(line) as Record<string, unknown>),
    };
    const config = await loadConfig(rig.configFile, GatewayConfig);
    const first = await startGateway(config, { log: silentLog });
    const { url } = first;
    const registrations = scope.use(
      registerAtGateways({
        gateways: [{ url, secretFile, caFile, intervalSeconds: 30 }],
        siteName: 'APART',
        address: `${rig.gateway.url}/VSITE`, // an https server as good as any
        clock,
        log: createLog({ level: 'info', stream }),
      }),
    );
    const is = (status: string) =>
      until(status, () => registrations.status()[`Gateway ${url}`] === status);
    await using client = createHttpClient({ baseUrl: url, tls: { ca: rig.ca } });
    const statusOf = async (path: string) =>
      await client.json('GET', path).then(
        () => 200,
        (error: unknown) => asGridError(error)?.details['status'],
      );
    await is('OK');
    assert.notEqual(await statusOf('/APART/x'), 404);
    await first.close();
    clock.advance(30_000);
    await is('DOWN');
    const port = Number(new URL(url).port);
    const next = { ...config, listen: { ...config.listen, port } };
    const second = await startGateway(next, { log: silentLog });
    scope.defer(() => second.close());
    assert.equal(await statusOf('/APART/x'), 404, 'it knows nobody');
    clock.advance(5_000);
    await is('OK');
    assert.notEqual(await statusOf('/APART/x'), 404);
    await writeFile(secretFile, 'another one that is wrong');
    clock.advance(30_000);
    await is('DOWN');
    await writeFile(secretFile, secret);
    clock.advance(5_000);
    await is('OK');
    assert.deepEqual(
      lines.map(({ msg }) => msg),
      ['ok', 'failed', 'ok', 'failed', 'ok'].map((what) =>
        what === 'ok' ? 'registered at a gateway' : 'a gateway does not take this site',
      ),
    );
    assert.match(String(lines[3]!['err']), /registration refused/);
    assert.doesNotMatch(JSON.stringify(lines), new RegExp(`${secret}|another one`));
  });

  const wrong: readonly (readonly [string, object, RegExp])[] = [
    ['by http', { url: 'http://localhost:1' }, /gateways\.0\.url.*https/s],
    ['at a path', { url: 'https://localhost:1/VSITE' }, /gateways\.0\.url.*without a path/s],
    ['too often', { intervalSeconds: 9 }, /gateways\.0\.intervalSeconds/],
  ];
  for (const [what, change, reason] of wrong)
    it(`does not start where it would register ${what}`, async () => {
      const file = join(rig.directory, 'wrong.yaml');
      const gateways = [{ url: rig.gateway.url, secretFile, ...change }];
      await writeFile(file, JSON.stringify(configOf({ gateways })));
      await assert.rejects(loadConfig(file, TargetsystemConfig), reason);
    });

  for (const listen of [{ unix: '/run/x.sock' }, { host: '::', port: 1 }])
    it(`has to say where it is found when it listens on ${JSON.stringify(listen)}`, () => {
      const { server: tls } = rig.credentials;
      const given = 'unix' in listen ? listen : { ...listen, tls };
      const refused = TargetsystemConfig.safeParse(configOf({ listen: given }));
      assert.deepEqual(
        refused.error?.issues.map(({ path }) => path.join('.')),
        ['gateways.0.address'],
      );
      const address = 'https://site.example:7777';
      const gateways = [{ url: rig.gateway.url, secretFile, address }];
      assert.ok(TargetsystemConfig.safeParse(configOf({ listen: given, gateways })).success);
    });
});

type Core = {
  readonly server: {
    readonly siteName: string;
    readonly externalConnections: Readonly<Record<string, string>>;
  };
  readonly _links: Readonly<Record<string, { readonly href: string }>>;
};
