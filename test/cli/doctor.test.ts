import assert from 'node:assert/strict';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer as createHttp } from 'node:http';
import { createServer, type AddressInfo, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { parseDocument } from 'yaml';
import { checkAll, type Checked } from '#cli/doctor/checks.js';
import { compareVersion, unpackVersion } from '#cli/doctor/versions.js';
import { writeConfiguration } from '#cli/quickstart/configuration.js';
import { layoutOf, type Layout } from '#cli/quickstart/layout.js';
import type { ServiceName } from '#cli/serve.js';
import { Scope } from '#kernel/scope.js';
import { issueCertificate, keyPem } from '#kernel/security/ca.js';
import { provideIdentities } from '../shared-files.js';

async function portOf(server: Server, scope: Scope): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  scope.defer(() => new Promise((resolve) => server.close(resolve)));
  return (server.address() as AddressInfo).port;
}

describe('vsite doctor', () => {
  const scope = new Scope();
  let layout: Layout;
  let sound: string;
  let freePort: number;
  before(async () => {
    const directory = await mkdtemp(join(tmpdir(), 'doctor-'));
    scope.defer(() => rm(directory, { recursive: true, force: true }));
    layout = layoutOf(join(directory, 'state'));
    sound = join(directory, 'sound');
    await provideIdentities(layout);
    await cp(layout.state, sound, { recursive: true });
    const passing = new Scope();
    freePort = await portOf(createServer(), passing);
    await passing.close();
  });
  beforeEach(async () => {
    await rm(layout.state, { recursive: true, force: true });
    await cp(sound, layout.state, { recursive: true });
    await writeConfiguration(
      layout,
      { host: '127.0.0.1', port: freePort },
      { machines: `test+unix:///default?socket=${layout.run}/nobody`, acceleration: 'qemu' },
    );
  });
  after(() => scope.close());

  const set = async (service: ServiceName, path: string, value: unknown): Promise<void> => {
    const file = join(layout.config, `${service}.yaml`);
    const document = parseDocument(await readFile(file, 'utf8'));
    document.setIn(path.split('.'), value);
    await writeFile(file, document.toString());
  };
  const credential = (name: string): string => join(layout.credentials, name);
  const look = async (): Promise<Checked[]> =>
    await checkAll({ configDirectory: layout.config, cacheDirectory: join(layout.state, 'cache') });
  const putCertificate = async (validDays: number): Promise<void> => {
    const request = { subject: 'CN=Short', usage: 'server', validDays } as const;
    const { key, certificate } = await issueCertificate(undefined, request);
    await writeFile(credential('server.key'), keyPem(key));
    await writeFile(credential('server.pem'), certificate.toString());
  };

  it('finds a sound installation sound, and makes nothing', async () => {
    const findings = await look();
    const names = ['configuration', 'certificates', 'secrets', 'users', 'databases', 'ports'];
    for (const name of names) {
      const finding = findings.find((each) => each.name === name)!;
      assert.equal(finding.state, 'good', `${name}: ${finding.text}`);
    }
    await assert.rejects(readFile(join(layout.state, 'targetsystem.sqlite')), { code: 'ENOENT' });
  });

  type Case = readonly [
    what: string,
    check: string,
    ill: () => Promise<unknown>,
    text: RegExp,
    remedy: RegExp,
  ];
  const cases: readonly Case[] = [
    [
      'a certificate that has ended',
      'certificates',
      () => putCertificate(-1),
      /server\.pem ended on /,
      /issue a new one; vsite init --force/,
    ],
    [
      'a certificate that ends soon',
      'certificates',
      () => putCertificate(5),
      /server\.pem ends in 4 days/,
      /issue a new one/,
    ],
    [
      "another certificate's key",
      'certificates',
      () => cp(credential('tsi.key'), credential('server.key')),
      /server\.key is not the key of .*server\.pem/,
      /put the key of .*server\.pem into .*server\.key/,
    ],
    [
      'a key that is none',
      'certificates',
      () => writeFile(credential('gateway.key'), 'x'),
      /gateway\.key holds no key/,
      /put the key of .*gateway\.pem/,
    ],
    [
      'an authority that is missing',
      'certificates',
      () => rm(credential('ca.pem')),
      /ENOENT.*ca\.pem/,
      /put .*ca\.pem there, or correct its path/,
    ],
    [
      'a certificate that is none',
      'certificates',
      () => writeFile(credential('consignor.pem'), 'x'),
      /./,
      /put a certificate, as PEM, into .*consignor\.pem/,
    ],
    [
      'an OCSP response that is none',
      'certificates',
      async () => {
        await writeFile(credential('ocsp.der'), 'x');
        await set('gateway', 'tls.ocspFile', credential('ocsp.der'));
      },
      /ocsp\.der: it is no OCSP response/,
      /ask the responder anew: openssl ocsp/,
    ],
    [
      'a key that is missing',
      'secrets',
      () => rm(credential('consignor.key')),
      /ENOENT.*consignor\.key/,
      /put .*consignor\.key there/,
    ],
    [
      "a secret of the tokens' provider that others may read",
      'secrets',
      async () => {
        await writeFile(credential('client.secret'), 'x', { mode: 0o644 });
        const client = { clientId: 'x', clientSecretFile: credential('client.secret') };
        await set('gateway', 'apiTokens', { issuer: 'https://127.0.0.1:1', ...client });
      },
      /others may read .*client\.secret/,
      /chmod go= .*client\.secret/,
    ],
    [
      "an authority of the tokens' provider that is missing",
      'certificates',
      async () => {
        const client = { clientId: 'x', clientSecretFile: credential('server.key') };
        const provider = { issuer: 'https://127.0.0.1:1', caFile: credential('op.pem') };
        await set('gateway', 'apiTokens', { ...provider, ...client });
      },
      /ENOENT.*op\.pem/,
      /put .*op\.pem there/,
    ],
    [
      'an authority of receivers of notifications that is missing',
      'certificates',
      () => set('targetsystem', 'xnjs.jobs.notifications.trustFiles', [credential('hook.pem')]),
      /ENOENT.*hook\.pem/,
      /put .*hook\.pem there/,
    ],
    [
      'a users file that makes no sense',
      'users',
      () => writeFile(layout.users, 'users: 7\n'),
      /users\.yaml: users: /,
      /mend the file/,
    ],
    [
      'a database that is none',
      'databases',
      () => writeFile(join(layout.state, 'targetsystem.sqlite'), 'no database '.repeat(100)),
      /targetsystem\.sqlite: .*not a database/,
      /put a copy of the database there/,
    ],
    [
      'a PostgreSQL that does not run',
      'databases',
      () => set('imagerepo', 'database.url', 'postgres://me:secret@127.0.0.1:1/x'),
      /postgres:\/\/me@127\.0\.0\.1:1\/x: .*ECONNREFUSED/,
      /start PostgreSQL/,
    ],
    [
      'a database of a kind that nobody knows',
      'databases',
      () => set('targetsystem', 'xnjs.database.url', 'oracle://x'),
      /must begin with sqlite/,
      /correct its url/,
    ],
    [
      "a port that is another program's",
      'ports',
      async () => {
        const port = await portOf(createServer(), scope);
        await set('targetsystem', 'metrics', { port });
      },
      /another program has port \d+/,
      /ss -ltnp .*or set targetsystem\.yaml: metrics\.port/,
    ],
    [
      'a port that is given twice',
      'ports',
      () => set('gateway', 'acme', { tokenDir: layout.run, httpPort: freePort }),
      /given twice: gateway\.yaml: listen\.port, gateway\.yaml: acme\.httpPort/,
      /give another in gateway\.yaml: acme\.httpPort/,
    ],
    [
      "an address that is another host's",
      'ports',
      () => set('imagerepo', 'listen', { host: '192.0.2.1', port: freePort }),
      /no address 192\.0\.2\.1/,
      /correct the host of imagerepo\.yaml: listen\.port/,
    ],
    [
      "another program at the gateway's port",
      'gateway',
      async () => {
        const other = createServer((socket) => socket.resume().end('no TLS'));
        await set('gateway', 'listen.port', await portOf(other, scope));
      },
      /another program has port/,
      /or set listen\.port/,
    ],
    [
      'a clock that is wrong',
      'clock',
      async () => {
        const date = new Date(Date.now() + 90_000).toUTCString();
        const later = createHttp((_request, response) => {
          response.setHeader('Date', date);
          response.end();
        });
        const url = `http://127.0.0.1:${await portOf(later, scope)}/rest/registries/x`;
        await set('targetsystem', 'registry', { external: [{ url }] });
      },
      /it is \d+ s earlier here than at http:/,
      /keep the clock in time by NTP/,
    ],
    [
      'a libvirt that does not answer',
      'libvirt for machines',
      () => Promise.resolve(),
      /nobody/,
      /start libvirtd/,
    ],
    [
      'an address of libvirt that is none',
      'libvirt for machines',
      () => set('targetsystem', 'xnjs.hypervisor.machines', 'nonsense'),
      /./,
      /correct the address in xnjs\.hypervisor/,
    ],
  ];
  for (const [what, check, ill, text, remedy] of cases)
    it(`says how to mend ${what}`, async () => {
      await ill();
      const finding = (await look()).find(({ name }) => name === check)!;
      assert.ok(finding.state !== 'good', finding.text);
      assert.match(finding.text, text);
      assert.match(finding.remedy, remedy);
    });
});

describe('versions', () => {
  const cases = [
    ['libvirt', 7_001_000n, 'bad', /libvirt 7\.1\.0 is too old/],
    ['libvirt', 7_002_000n, 'doubtful', /older than what VSite is tried with/],
    ['libvirt', 9_000_000n, 'good', /^libvirt 9\.0\.0$/],
    ['libvirt', 10_000_000n, 'good', /^libvirt 10\.0\.0$/],
    ['QEMU', 6_002_050n, 'doubtful', /QEMU 6\.2\.50 is older/],
    ['QEMU', 7_002_022n, 'good', /^QEMU 7\.2\.22$/],
  ] as const;
  for (const [name, packed, state, text] of cases)
    it(`${name} ${packed} is ${state}`, () => {
      const finding = compareVersion(name, unpackVersion(packed));
      assert.equal(finding.state, state);
      assert.match(finding.text, text);
    });
});
