import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { connect as connectTls } from 'node:tls';
import { after, describe, it } from 'node:test';
import { join } from 'node:path';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import type { MutualTls } from '#kernel/net/tls-upgrade.js';
import { Scope } from '#kernel/scope.js';
import { CallbackListener, callbackTransport } from '#xnjs/tsi/callback-transport.js';
import { createTsi, type TsiClient } from '#xnjs/tsi/tsi-client.js';
import { admitsName } from '../../tsi/agent/distinguished-names.js';
import { alice, nobodyId, scratch, startAgent, until, type AgentProcess } from './agent-process.js';
import { makeCertificates, type Certificates } from './certificates.js';

const plain = ['tsi.my_port=0', 'tsi.unicorex_machine=127.0.0.1'];

async function clientTo(
  scope: Scope,
  agent: AgentProcess,
  tls?: MutualTls,
  openMs = 15_000,
): Promise<TsiClient> {
  const listener = scope.use(
    await CallbackListener.open({ host: '127.0.0.1', port: 0, log: silentLog }),
  );
  const transport = callbackTransport({
    host: '127.0.0.1',
    port: await agent.port(),
    listener,
    ...(tls && { tls }),
  });
  return scope.use(createTsi(transport, { clock: systemClock, log: silentLog, openMs }));
}

/** Bytes that come back for bytes that are sent, until the other side ends. */
async function exchange(port: number, request: string): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => undefined);
  socket.write(request);
  return String(await buffer(socket).catch(() => ''));
}

async function roundTrip(tsi: TsiClient, scope: Scope): Promise<void> {
  const file = join(scratch(scope, nobodyId), 'file');
  const content = Buffer.alloc(3_000_000, 'abc');
  assert.equal(await tsi.ping(), '11.2.1');
  assert.equal(await tsi.write(alice, file, Readable.from([content])), content.length);
  assert.ok(content.equals(await buffer(tsi.read(alice, file))));
  const prints = await Promise.all([1, 2, 3, 4, 5, 6].map((n) => tsi.execute(alice, `echo ${n}`)));
  assert.deepEqual(prints, ['1\n', '2\n', '3\n', '4\n', '5\n', '6\n']);
}

describe('the classic main', () => {
  it('serves a server that it calls back, by a dual-stack socket too', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope, { properties: plain });
    await roundTrip(await clientTo(scope, agent), scope);
  });

  it('serves several servers', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope, { properties: plain });
    const [one, two] = await Promise.all([clientTo(scope, agent), clientTo(scope, agent)]);
    await Promise.all([roundTrip(one, scope), roundTrip(two, scope)]);
  });

  it('is not held up by peers that say nothing, or nonsense', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope, { properties: plain });
    const port = await agent.port();
    const silent: Socket[] = [1, 2, 3].map(() => connect(port, '127.0.0.1'));
    scope.defer(() => silent.forEach((socket) => socket.destroy()));
    await Promise.all(silent.map((socket) => once(socket, 'connect')));
    for (const request of [
      '\n',
      'x'.repeat(5_000),
      'newtsiprocess\n',
      'newtsiprocess 99999\n',
      'set a b\n',
    ])
      assert.equal(await exchange(port, request), '');
    assert.equal(await (await clientTo(scope, agent)).ping(), '11.2.1');
  });

  it('takes a request that comes in pieces', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope, { properties: plain });
    const listener = createServer();
    scope.defer(() => listener.close());
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
    const socket = connect(await agent.port(), '127.0.0.1');
    const called = once(listener, 'connection') as Promise<[Socket]>;
    for (const piece of [
      'newtsi',
      'process ',
      `${(listener.address() as AddressInfo).port}`,
      '\n',
    ]) {
      socket.write(piece);
      await new Promise((resolve) => setImmediate(resolve));
    }
    const [back] = await called;
    back.destroy();
    assert.equal(String(await buffer(socket)), 'OK\n');
  });

  it('calls back again when the listener opens late', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope, { properties: plain });
    const probe = createServer();
    await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
    const { port } = probe.address() as AddressInfo;
    await new Promise((resolve) => probe.close(resolve));
    // it stays open until the call-backs are there
    const asked = connect(await agent.port(), '127.0.0.1');
    scope.defer(() => asked.destroy());
    asked.write(`newtsiprocess ${port}\n`);
    const [answer] = (await once(asked, 'data')) as [Buffer];
    assert.equal(String(answer), 'OK\n');
    const listener = createServer();
    scope.defer(() => listener.close());
    listener.listen(port, '127.0.0.1');
    const [socket] = (await once(listener, 'connection')) as [Socket];
    socket.destroy();
  });

  it('turns away who is not in its list', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope, {
      properties: ['tsi.my_port=0', 'tsi.unicorex_machine=192.0.2.1'],
    });
    assert.equal(await exchange(await agent.port(), 'newtsiprocess 4433\n'), '');
    await assert.rejects((await clientTo(scope, agent)).ping(), { code: 'TSI_UNAVAILABLE' });
  });

  it('takes no requests after a shutdown, but serves its workers', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope, { properties: plain });
    const port = await agent.port();
    const tsi = await clientTo(scope, agent);
    await tsi.ping();
    assert.equal(await exchange(port, 'shutdown\n'), '');
    await until('the main is closed', async () => {
      const socket = connect(port, '127.0.0.1');
      return once(socket, 'connect').then(
        () => !socket.destroy(),
        () => true,
      );
    });
    assert.equal(await tsi.execute(alice, 'echo on'), 'on\n');
  });
});

describe('the classic main with TLS', () => {
  const shared = new Scope();
  let made: Promise<Certificates> | undefined;
  const certificates = (): Promise<Certificates> => (made ??= makeCertificates(scratch(shared)));
  after(() => shared.close());
  const allowed = 'tsi.allowed_dn.1=CN=XNJS 1,O=Grid';

  it('serves a server with a trusted certificate and a name in the list', async () => {
    await using scope = new Scope();
    const { tsi, xnjs } = await certificates();
    const agent = await startAgent(scope, { properties: [...plain, ...tsi, allowed] });
    await roundTrip(await clientTo(scope, agent, xnjs), scope);
  });

  const refusals: readonly (readonly [string, 'xnjs' | 'foreign' | 'none', string])[] = [
    ['another name', 'xnjs', 'tsi.allowed_dn.1=CN=XNJS 2,O=Grid'],
    ['anybody where the list is empty', 'xnjs', ''],
    ['a certificate of a foreign authority with the right name', 'foreign', allowed],
    ['a plain connection', 'none', allowed],
  ];
  for (const [what, who, list] of refusals)
    it(`refuses ${what}, and serves the next`, async () => {
      await using scope = new Scope();
      const made = await certificates();
      const agent = await startAgent(scope, { properties: [...plain, ...made.tsi, list] });
      const tls = who === 'none' ? undefined : made[who];
      await assert.rejects((await clientTo(scope, agent, tls, 5_000)).ping(), {
        code: 'TSI_UNAVAILABLE',
      });
      assert.equal(agent.child.exitCode, null);
      if (list === allowed)
        assert.equal(await (await clientTo(scope, agent, made.xnjs)).ping(), '11.2.1');
    });

  it('survives handshakes that are broken off, silent or nonsense', async () => {
    await using scope = new Scope();
    const { tsi, xnjs } = await certificates();
    const agent = await startAgent(scope, { properties: [...plain, ...tsi, allowed] });
    const port = await agent.port();
    const silent = connect(port, '127.0.0.1');
    scope.defer(() => silent.destroy());
    await once(silent, 'connect');
    const half = connect(port, '127.0.0.1');
    scope.defer(() => half.destroy());
    half.write('\u0016\u0003\u0001\u0000');
    await exchange(port, 'newtsiprocess 1\n');
    const nameless = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false });
    await once(nameless, 'error').catch(() => undefined);
    assert.equal(await (await clientTo(scope, agent, xnjs)).ping(), '11.2.1');
  });

  it('is not served by a TSI that the server does not trust', async () => {
    await using scope = new Scope();
    const { tsi } = await certificates();
    const others = await makeCertificates(scratch(scope));
    const agent = await startAgent(scope, { properties: [...plain, ...tsi, allowed] });
    await assert.rejects((await clientTo(scope, agent, others.xnjs, 5_000)).ping(), {
      code: 'TSI_UNAVAILABLE',
    });
  });
});

describe('names in the list', () => {
  const subject = { CN: 'XNJS 1', O: 'Grid', C: 'EU', DC: ['a', 'b'], emailAddress: 'x@y' };
  const cases: readonly (readonly [string, boolean])[] = [
    ['CN=XNJS 1,O=Grid,C=EU', true],
    ['O=Grid, CN=XNJS 1', true],
    ['o=Grid', true],
    ['emailAddress=x@y', true],
    ['DC=a,DC=b', true],
    ['CN=XNJS 1,O=Other', false],
    ['CN=XNJS', false],
    ['OU=Grid', false],
    ['DC=c', false],
    ['', false],
    ['CN', false],
    [',', false],
  ];
  for (const [wanted, admitted] of cases)
    it(`${JSON.stringify(wanted)} ${admitted ? 'admits' : 'does not admit'} the subject`, () =>
      assert.equal(admitsName(wanted, subject), admitted));
  it('reads an escaped comma', () => assert.equal(admitsName('O=A\\, B', { O: 'A, B' }), true));
});
