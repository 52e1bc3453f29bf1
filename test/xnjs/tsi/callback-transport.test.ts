import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { acceptTls, startTls, type MutualTls } from '#kernel/net/tls-upgrade.js';
import { Scope } from '#kernel/scope.js';
import { createCa, issueCertificate, keyPem, type Credential } from '#kernel/security/ca.js';
import { CallbackRange } from '#xnjs/tsi/callback-range.js';
import { callbackTransport, CallbackListener, type TsiTls } from '#xnjs/tsi/callback-transport.js';
import { createTsi, type TsiClient } from '#xnjs/tsi/tsi-client.js';
import { until } from '../../tsi/agent-process.js';
import { answerPings, callBack, serve, startMain, type Main } from './trial-main.js';

async function startClient(
  scope: Scope,
  port: number,
  { tls, openMs = 1_000 }: { tls?: TsiTls; openMs?: number } = {},
): Promise<{ tsi: TsiClient; listener: CallbackListener }> {
  const listener = scope.use(await openListener());
  const transport = callbackTransport({ host: '127.0.0.1', port, listener, ...(tls && { tls }) });
  return { tsi: createClient(scope, transport, openMs), listener };
}

function openListener(): Promise<CallbackListener> {
  return CallbackListener.open({ host: '127.0.0.1', port: 0, log: silentLog });
}

function createClient(
  scope: Scope,
  transport: ReturnType<typeof callbackTransport>,
  openMs: number,
): TsiClient {
  return scope.use(createTsi(transport, { clock: systemClock, log: silentLog, openMs }));
}

const unavailable = { code: 'TSI_UNAVAILABLE' };

// most of them wait for a deadline, each with a TSI of its own
describe('a handshake with a TSI', { concurrency: 8 }, () => {
  const fails: readonly (readonly [string, Main])[] = [
    ['says nothing', () => undefined],
    ['hangs up', (socket) => void socket.destroy()],
    ['refuses', (socket) => void socket.end('NO\n')],
    [
      'dies between its OK and the call-backs',
      async (socket, replyPort) => {
        await replyPort();
        socket.end('OK\n');
      },
    ],
    [
      'calls back once only',
      async (socket, replyPort) => {
        const port = await replyPort();
        socket.end('OK\n');
        answerPings(await callBack(port));
      },
    ],
    [
      'ends the first call-back before the second',
      async (socket, replyPort) => {
        const port = await replyPort();
        socket.end('OK\n');
        (await callBack(port)).destroy();
        await callBack(port);
      },
    ],
    [
      'calls back from another address',
      async (socket, replyPort) => {
        const port = await replyPort();
        socket.end('OK\n');
        answerPings(await callBack(port, '127.0.0.2'));
        await callBack(port, '127.0.0.2');
      },
    ],
    [
      'calls back from two addresses',
      async (socket, replyPort) => {
        const port = await replyPort();
        socket.end('OK\n');
        answerPings(await callBack(port));
        await callBack(port, '127.0.0.2');
      },
    ],
  ];
  for (const [what, main] of fails)
    it(`fails in time when it ${what}, and the next one works`, async () => {
      await using scope = new Scope();
      let well = false;
      const port = await startMain(scope, async (socket, replyPort) => {
        if (!well) {
          await main(socket, replyPort);
          return;
        }
        const reply = await replyPort();
        socket.end('OK\n');
        await serve(reply);
      });
      const { tsi, listener } = await startClient(scope, port);
      await assert.rejects(tsi.ping(), unavailable);
      well = true;
      const transport = callbackTransport({ host: '127.0.0.1', port, listener });
      assert.equal(await createClient(scope, transport, 10_000).ping(), '11.2.0');
    });

  it('fails long before its time is over when the TSI has left without calling back', async () => {
    await using scope = new Scope();
    const port = await startMain(scope, async (socket, replyPort) => {
      await replyPort();
      socket.end('OK\n');
    });
    const { tsi } = await startClient(scope, port, { openMs: 600_000 });
    await assert.rejects(tsi.ping(), { ...unavailable, message: /left without calling back/ });
  });

  it('is not spoilt by one that was given up while it waited for its turn', async () => {
    await using scope = new Scope();
    let call = (): void => undefined;
    const mayCall = new Promise<void>((resolve) => (call = resolve));
    const asked: number[] = [];
    const port = await startMain(scope, async (socket, replyPort) => {
      const reply = await replyPort();
      asked.push(reply);
      socket.write('OK\n');
      await mayCall;
      await serve(reply);
    });
    const { tsi, listener } = await startClient(scope, port, { openMs: 10_000 });
    const first = tsi.ping();
    await until('the first has asked', () => asked.length === 1);
    const transport = callbackTransport({ host: '127.0.0.1', port, listener });
    await assert.rejects(createClient(scope, transport, 50).ping(), unavailable);
    call();
    assert.equal(await first, '11.2.0');
    assert.equal(asked.length, 1);
  });

  it('does not take a call-back that came too late for the one before', async () => {
    await using scope = new Scope();
    let late: Promise<void> | undefined;
    const port = await startMain(scope, async (socket, replyPort) => {
      const reply = await replyPort();
      socket.end('OK\n');
      if (late) {
        await serve(reply, '11.2.0');
        return;
      }
      late = until('the client has given up', () => refused).then(() => serve(reply, '6.6.6'));
    });
    let refused = false;
    const { tsi, listener } = await startClient(scope, port, { openMs: 300 });
    await assert.rejects(tsi.ping(), unavailable);
    refused = true;
    const transport = callbackTransport({ host: '127.0.0.1', port, listener });
    assert.equal(await createClient(scope, transport, 10_000).ping(), '11.2.0');
    await late;
  });

  it('is not kept waiting by other hosts, however many they ask and never call back', async () => {
    await using scope = new Scope();
    let asked = 0;
    const grantOnly: Main = async (socket, replyPort) => {
      await replyPort();
      asked += 1;
      socket.write('OK\n');
    };
    const port = await startMain(scope, async (socket, replyPort) => {
      const reply = await replyPort();
      socket.end('OK\n');
      await serve(reply);
    });
    const { port: free } = scope.use(await openListener());
    const ports = { host: '127.0.0.1', firstPort: free + 1, lastPort: free + 3, log: silentLog };
    const range = scope.use(new CallbackRange(ports));
    for (const host of ['127.0.0.2', '127.0.0.3']) {
      const main = await startMain(scope, grantOnly, host);
      const transport = callbackTransport({ host, port: main, listener: range });
      for (let i = 0; i < 6; i += 1)
        createClient(scope, transport, 600_000)
          .ping()
          .catch(() => undefined);
    }
    await until('both hold a port', () => asked >= 2);
    const transport = callbackTransport({ host: '127.0.0.1', port, listener: range });
    assert.equal(await createClient(scope, transport, 10_000).ping(), '11.2.0');
  });

  it('gets its own call-backs where another host is called back at the same port', async () => {
    await using scope = new Scope();
    const listener = scope.use(await openListener());
    const replies: (() => Promise<void>)[] = [];
    const hosts = [
      ['127.0.0.1', '1.1.1'],
      ['127.0.0.2', '2.2.2'],
    ] as const;
    const pings: Promise<string>[] = [];
    for (const [host, version] of hosts) {
      const main: Main = async (socket, replyPort) => {
        const reply = await replyPort();
        socket.write('OK\n');
        replies.push(() => serve(reply, version, host));
      };
      const port = await startMain(scope, main, host);
      pings.push(createClient(scope, callbackTransport({ host, port, listener }), 10_000).ping());
      await until('it is asked', () => replies.length === pings.length);
    }
    // the last one calls first
    for (const reply of replies.toReversed()) await reply();
    assert.deepEqual(await Promise.all(pings), ['1.1.1', '2.2.2']);
  });

  it('fails where another name of the same host has a handshake under way', async () => {
    await using scope = new Scope();
    let asked = 0;
    const port = await startMain(scope, async (socket, replyPort) => {
      const reply = await replyPort();
      asked += 1;
      socket.write('OK\n');
      await until('the other one has failed', () => failed);
      await serve(reply);
    });
    let failed = false;
    const { tsi, listener } = await startClient(scope, port, { openMs: 10_000 });
    const first = tsi.ping();
    await until('the first has asked', () => asked === 1);
    const byName = callbackTransport({ host: 'localhost', port, listener });
    await assert.rejects(createClient(scope, byName, 10_000).ping(), {
      ...unavailable,
      message: /another handshake/,
    });
    failed = true;
    assert.equal(await first, '11.2.0');
    assert.equal(asked, 1);
  });

  it('closes at once whoever calls without having been asked', async () => {
    await using scope = new Scope();
    const { listener } = await startClient(scope, 1);
    const socket = await callBack(listener.port);
    await once(socket, 'close');
  });

  it('is made with several TSIs at once where there are ports for it', async () => {
    await using scope = new Scope();
    const asked: number[] = [];
    let all = (): void => undefined;
    const bothAsked = new Promise<void>((resolve) => (all = resolve));
    const port = await startMain(scope, async (socket, replyPort) => {
      const reply = await replyPort();
      if (asked.push(reply) === 2) all();
      socket.end('OK\n');
      await bothAsked; // neither is served before both have asked
      await serve(reply);
    });
    const free = await startMain(scope, () => undefined); // in use: the range goes on behind it
    const listener = scope.use(
      new CallbackRange({
        host: '127.0.0.1',
        firstPort: free,
        lastPort: free + 50,
        log: silentLog,
      }),
    );
    const transport = callbackTransport({ host: '127.0.0.1', port, listener });
    const clients = [1, 2].map(() => createClient(scope, transport, 5_000));
    assert.deepEqual(await Promise.all(clients.map((tsi) => tsi.ping())), ['11.2.0', '11.2.0']);
    assert.equal(new Set(asked).size, 2);
    assert.ok(asked.every((used) => used > free && used <= free + 50));
  });
});

describe('a TSI with TLS', () => {
  let material: { tsi: MutualTls; xnjs: MutualTls; expired: MutualTls; foreign: MutualTls };
  before(async () => {
    const [ca, otherCa] = await Promise.all([createCa('CN=CA,O=Grid'), createCa('CN=CA,O=Grid')]);
    const issue = async (
      issuer: Credential,
      subject: string,
      validDays = 2,
    ): Promise<MutualTls> => {
      const one = await issueCertificate(issuer, { subject, usage: 'server', validDays });
      const pem = { key: keyPem(one.key), cert: one.certificate.toString() };
      return { ...pem, ca: ca.certificate.toString() };
    };
    material = {
      tsi: await issue(ca, 'CN=TSI,O=Grid'),
      xnjs: await issue(ca, 'CN=XNJS,O=Grid'),
      expired: await issue(ca, 'CN=TSI,O=Grid', -1 / 100),
      foreign: await issue(otherCa, 'CN=TSI,O=Grid'),
    };
  });
  const scopes: Scope[] = [];
  after(() => Promise.all(scopes.map((scope) => scope.close())));

  /** A main with one certificate, whose call-backs show another. */
  function startTlsMain(scope: Scope, main: MutualTls, worker = main): Promise<number> {
    return startMain(scope, async (plain) => {
      const socket = await acceptTls(plain, main, 2_000);
      const [request] = (await once(socket, 'data')) as [Buffer];
      const port = Number(request.toString().split(' ')[1]);
      socket.end('OK\n');
      const command = await startTls(await callBack(port), worker, 2_000);
      answerPings(command);
      await startTls(await callBack(port), worker, 2_000);
    });
  }

  const peerDns = ['CN=Other,O=Grid', 'cn=TSI, o=Grid'];
  const cases: readonly (readonly [
    string,
    () => { main: MutualTls; worker?: MutualTls; peerDns?: readonly string[] },
    boolean,
  ])[] = [
    ['a name of the list', () => ({ main: material.tsi, peerDns }), true],
    ['any name where there is no list', () => ({ main: material.xnjs }), true],
    ['a name that is not in the list', () => ({ main: material.xnjs, peerDns }), false],
    ['any name where the list is empty', () => ({ main: material.tsi, peerDns: [] }), false],
    ['an expired certificate', () => ({ main: material.expired, peerDns }), false],
    ['a certificate of a foreign authority', () => ({ main: material.foreign, peerDns }), false],
    [
      'another name when it calls back',
      () => ({ main: material.tsi, worker: material.xnjs, peerDns }),
      false,
    ],
    [
      'a foreign certificate when it calls back',
      () => ({ main: material.tsi, worker: material.foreign, peerDns }),
      false,
    ],
  ];
  for (const [what, make, works] of cases)
    it(`${works ? 'is believed with' : 'is not believed with'} ${what}`, async () => {
      const scope = new Scope();
      scopes.push(scope);
      const { main, worker, peerDns: names } = make();
      const port = await startTlsMain(scope, main, worker);
      const tls = { ...material.xnjs, ...(names && { peerDns: names }) };
      const { tsi } = await startClient(scope, port, { tls, openMs: 5_000 });
      if (works) assert.equal(await tsi.ping(), '11.2.0');
      else await assert.rejects(tsi.ping(), unavailable);
    });

  it('is not believed when it speaks plain TCP', async () => {
    await using scope = new Scope();
    const port = await startMain(scope, async (socket, replyPort) => {
      const reply = await replyPort();
      socket.end('OK\n');
      await serve(reply);
    });
    const { tsi } = await startClient(scope, port, { tls: material.xnjs });
    await assert.rejects(tsi.ping(), unavailable);
  });

  it('is not believed when it calls back by plain TCP', async () => {
    await using scope = new Scope();
    const port = await startMain(scope, async (plain) => {
      const socket = await acceptTls(plain, material.tsi, 2_000);
      const [request] = (await once(socket, 'data')) as [Buffer];
      socket.end('OK\n');
      await serve(Number(request.toString().split(' ')[1]));
    });
    const { tsi } = await startClient(scope, port, { tls: material.xnjs });
    await assert.rejects(tsi.ping(), unavailable);
  });
});
