import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import { Scope } from '#kernel/scope.js';
import { inProject } from '../program.js';
import { alice, nobodyId, scratch, startAgent } from '../tsi/agent-process.js';
import { makeCertificates } from '../tsi/certificates.js';
import { freePort } from './unicore-tsi.js';

/** The folder with all jars of a UNICORE/X installation, its `lib`. */
const libVariable = 'VSITE_UNICOREX_LIB';
const lib = process.env[libVariable];
const driver = inProject('test/real-tsi/UnicoreXnjs.java');
const javaMs = 240_000;
/** That of the driver. */
const contentBytes = 3_000_001;

if (lib === undefined)
  it("UNICORE's XNJS in front of our agent", {
    skip: `${libVariable} names no folder with the jars of UNICORE/X`,
  });
else
  describe("UNICORE's XNJS in front of our agent", { timeout: 2 * javaMs }, () => {
    it('works by plain connections', async () => check(await run(lib, false)));
    it('works by TLS', async () => check(await run(lib, true)));
  });

type Seen = Readonly<Record<`log of ${string}`, string>> & {
  readonly version: string;
  readonly alive: boolean;
  readonly sameBytes: boolean;
  readonly names: string[];
  readonly size: number;
  readonly left: number;
  readonly refusal: string;
  readonly user: string;
  readonly userInfo: boolean;
  readonly space: number;
  readonly batch: object;
  readonly login: object;
  readonly forwarded: string;
};

/** Runs the driver; says what it got. */
async function run(jars: string, tls: boolean): Promise<Seen> {
  await using scope = new Scope();
  assert.ok(existsSync(jars) && readdirSync(jars).some((name) => name.endsWith('.jar')));
  const replyPort = await freePort();
  const own = scratch(scope);
  // its library reads no EC keys in PEM
  const certificates = await makeCertificates(own, 'rsa');
  const listen = ['tsi.my_port=0', 'tsi.unicorex_machine=127.0.0.1'];
  const secured = [...certificates.tsi, 'tsi.allowed_dn.1=CN=XNJS 1,O=Grid,C=EU'];
  const agent = await startAgent(scope, { properties: tls ? [...listen, ...secured] : listen });
  const credential = tls ? credentialOf(own, certificates.xnjs) : [];
  const settings = settingsOf(scope, await agent.port(), replyPort, tls);
  const file = join(own, 'xnjs.properties');
  writeFileSync(file, [...settings, ...credential, ''].join('\n'));
  const echo = createServer((socket) => socket.on('error', () => undefined).pipe(socket));
  await once(echo.listen(0, '127.0.0.1'), 'listening');
  scope.defer(() => void echo.close());
  const address = `127.0.0.1:${(echo.address() as AddressInfo).port}`;
  const directory = scratch(scope, nobodyId);
  const { stdout, stderr } = await promisify(execFile)(
    'java',
    ['-cp', join(jars, '*'), driver, file, directory, alice.login, address],
    { timeout: javaMs, maxBuffer: 64 << 20 },
  );
  const [, seen] = /^SEEN (.*)$/m.exec(stdout) ?? [];
  assert.ok(seen, `${stdout}\n${stderr}\n${agent.log()}`);
  return JSON.parse(seen) as Seen;
}

function settingsOf(scope: Scope, port: number, replyPort: number, tls: boolean): string[] {
  const own = scratch(scope);
  // as UNICORE/X asks of whoever installs it: all users may make their directories there
  const space = join(own, 'filespace');
  mkdirSync(space);
  chmodSync(space, 0o1777);
  writeFileSync(join(own, 'idb'), '{}');
  return [
    'CLASSICTSI.machine=127.0.0.1',
    `CLASSICTSI.port=${port}`,
    `CLASSICTSI.replyport=${replyPort}`,
    `CLASSICTSI.priveduser=${alice.login}`,
    'CLASSICTSI.statusupdate.interval=1000',
    `CLASSICTSI.ssl.disable=${!tls}`,
    `XNJS.idbfile=${join(own, 'idb')}`,
    `XNJS.filespace=${space}`,
    'XNJS.numberofworkers=2',
    `persistence.directory=${join(own, 'state')}`,
  ];
}

function credentialOf(own: string, { key, cert }: { key: string; cert: string }): string[] {
  writeFileSync(join(own, 'xnjs-key.pem'), key, { mode: 0o600 });
  writeFileSync(join(own, 'xnjs-cert.pem'), cert);
  return [
    'credential.format=pem',
    `credential.path=${join(own, 'xnjs-cert.pem')}`,
    `credential.keyPath=${join(own, 'xnjs-key.pem')}`,
    'truststore.type=directory',
    `truststore.directoryLocations.1=${join(own, 'ca.pem')}`,
    'client.serverHostnameChecking=NONE',
  ];
}

function check(seen: Seen): void {
  const { version, alive, sameBytes, names, size, left, user, userInfo, forwarded } = seen;
  assert.deepEqual({ version, alive }, { version: '11.2.1', alive: true });
  assert.deepEqual({ sameBytes, size, left }, { sameBytes: true, size: contentBytes, left: 0 });
  assert.deepEqual(names, ['/sub/copy of it', '/sub/moved']);
  assert.match(seen.refusal, /no such file/);
  assert.deepEqual({ user, userInfo }, { user: alice.login, userInfo: true });
  assert.ok(seen.space > 0);
  assert.deepEqual(seen.batch, { exit: 3, stdout: 'out\n', stderr: 'err\n' });
  assert.deepEqual(seen.login, { exit: 0, stdout: 'login\n', stderr: '' });
  assert.equal(forwarded, 'there and back');
  for (const type of ['NORMAL', 'ON_LOGIN_NODE']) {
    const log = seen[`log of ${type}`] ?? '';
    assert.match(log, /Paused\./, `${type}: ${log}`);
    assert.match(log, /Resumed\./, `${type}: ${log}`);
    assert.doesNotMatch(log, /Could not/, type);
  }
}
