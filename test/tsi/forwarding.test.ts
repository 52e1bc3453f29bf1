import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chmodSync, chownSync, readFileSync } from 'node:fs';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { CallbackListener, callbackTransport } from '#xnjs/tsi/callback-transport.js';
import type { TsiTransport } from '#xnjs/tsi/tsi.js';
import { parseService } from '../../tsi/agent/forwarding.js';
import {
  alice,
  isRoot,
  linkTo,
  nobodyId,
  scratch,
  startAgent,
  until,
  type AgentProcess,
} from './agent-process.js';
import { makeCertificates } from './certificates.js';

const signal = AbortSignal.timeout(60_000);
const classic = ['tsi.my_port=0', 'tsi.unicorex_machine=127.0.0.1'];

type Where = { readonly port: number; readonly host: string } | { readonly path: string };

/** A service that lets the test have its connections. */
async function serve(
  scope: Scope,
  where: Where,
  accept: (socket: Socket) => void,
): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => undefined);
    scope.defer(() => socket.destroy());
    accept(socket);
  });
  await new Promise<void>((resolve) => server.listen(where, resolve));
  scope.defer(() => server.close());
  return server;
}
const local = { port: 0, host: '127.0.0.1' } as const;
const nameOf = (server: Server): string =>
  `127.0.0.1:${String((server.address() as AddressInfo).port)}`;
/** All that comes, and the other half stays open: `stream/consumers` would end it. */
function heardFrom(stream: Duplex): Promise<Buffer> {
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  return new Promise((resolve, reject) => {
    stream.once('end', () => resolve(Buffer.concat(chunks)));
    stream.on('error', reject);
  });
}
/** Answers when the client has said all: what a proxy that knows no halves could never carry. */
const afterwards = (socket: Socket): void =>
  void heardFrom(socket).then((said) =>
    socket.end(`${said.length} bytes: ${said.toString('latin1')}`),
  );

async function say(connection: Duplex, text: string): Promise<string> {
  connection.end(text);
  return String(await heardFrom(connection));
}

const ways: readonly (readonly [
  string,
  (scope: Scope) => Promise<{ transport: TsiTransport; agent: AgentProcess }>,
])[] = [
  [
    'over the agent link',
    async (scope) => {
      const agent = await startAgent(scope);
      return { agent, transport: (await linkTo(scope, agent.socket)).transport() };
    },
  ],
  ['by the classic main', (scope) => byCallBack(scope, false)],
  ['by the classic main with TLS', (scope) => byCallBack(scope, true)],
];

async function byCallBack(scope: Scope, secure: boolean) {
  const made = secure ? await makeCertificates(scratch(scope)) : undefined;
  const allowed = made ? [...made.tsi, 'tsi.allowed_dn.1=O=Grid'] : [];
  const agent = await startAgent(scope, { properties: [...classic, ...allowed] });
  const listener = scope.use(await CallbackListener.open({ ...local, log: silentLog }));
  const at = { host: '127.0.0.1', port: await agent.port(), listener };
  const transport = callbackTransport({ ...at, ...(made && { tls: made.xnjs }) });
  return { agent, transport };
}

for (const [way, open] of ways)
  describe(`a forwarded connection ${way}`, () => {
    const scope = new Scope();
    let transport: TsiTransport;
    let dir: string;
    const forward = (service: string, who = alice): Promise<Duplex> =>
      transport.forward?.(who, service, signal) ?? Promise.reject(new Error('no forwarding'));
    /** The classic way has no place for a reason: the connection ends. */
    const refused = async (service: string, who = alice): Promise<void> => {
      const connection = await forward(service, who).catch((error: unknown) => {
        assert.equal((error as { code?: string }).code, 'TSI_FAILED');
      });
      if (connection) assert.equal(String(await heardFrom(connection).catch(() => '')), '');
    };

    before(async () => {
      ({ transport } = await open(scope));
      dir = scratch(scope, nobodyId);
    });
    after(() => scope.close());

    it('carries bytes both ways, and the answer to a half that has ended', async () => {
      const service = await serve(scope, local, afterwards);
      assert.equal(await say(await forward(nameOf(service)), 'hello'), '5 bytes: hello');
    });

    it('lets the service end first and still hears the client', async () => {
      let heard: Promise<Buffer> | undefined;
      const service = await serve(scope, local, (socket) => {
        heard = heardFrom(socket);
        socket.end('first');
      });
      const connection = await forward(nameOf(service));
      assert.equal(String(await heardFrom(connection)), 'first');
      connection.end('last');
      assert.equal(String(await heard), 'last');
    });

    it('carries megabytes without loss while nobody reads for a time', async () => {
      const content = Buffer.alloc(5_000_000, 'abcdefgh');
      const service = await serve(scope, local, (socket) => socket.pipe(socket));
      const connection = await forward(nameOf(service));
      connection.end(content);
      await new Promise((resolve) => setImmediate(resolve));
      assert.ok(content.equals(await heardFrom(connection)));
    });

    it('reaches a service of IPv6, and one with a name', async (t) => {
      const named = await serve(scope, local, afterwards);
      const { port } = named.address() as AddressInfo;
      assert.equal(await say(await forward(`localhost:${port}`), 'x'), '1 bytes: x');
      const service = await serve(scope, { port: 0, host: '::1' }, afterwards).catch(
        () => undefined,
      );
      if (!service) {
        t.skip('no IPv6 here');
        return;
      }
      const at = (service.address() as AddressInfo).port;
      for (const host of ['[::1]', '::1'])
        assert.equal(await say(await forward(`${host}:${at}`), 'six'), '3 bytes: six');
    });

    it('reaches a socket in the file system that the user may use, and no other', async () => {
      const path = join(dir, 'a socket');
      await serve(scope, { path }, afterwards);
      chmodSync(path, 0o600);
      if (isRoot) {
        await refused(`file:${path}`); // it is root's
        chownSync(path, nobodyId, nobodyId);
      }
      assert.equal(await say(await forward(`file:${path}`), 'x'), '1 bytes: x');
    });

    it('belongs to the user, as the kernel sees it', { skip: !isRoot }, async () => {
      const service = await serve(scope, local, (socket) => socket.pipe(socket));
      const connection = await forward(nameOf(service));
      const port = (service.address() as AddressInfo).port.toString(16).toUpperCase();
      const row = await until('it is there', () =>
        readFileSync('/proc/net/tcp', 'utf8')
          .split('\n')
          .find((line) => new RegExp(`^ *\\d+: \\S+ 0100007F:0*${port} 01 `).test(line)),
      );
      assert.equal(row.trim().split(/\s+/)[7], String(nobodyId));
      connection.destroy();
    });

    it('ends when the service cannot be reached, or is none', async () => {
      const closed = await serve(scope, local, () => undefined);
      const name = nameOf(closed);
      await new Promise((resolve) => closed.close(resolve));
      for (const service of [name, 'nowhere.invalid:80', 'file:/nowhere', 'file:etc', '127.0.0.1'])
        await refused(service);
    });

    it('is made for no user that is unknown, or root', { skip: !isRoot }, async () => {
      let reached = 0;
      const service = await serve(scope, local, () => (reached += 1));
      for (const login of ['root', 'nosuchuser'])
        await refused(nameOf(service), { login, groups: 'NONE' });
      assert.equal(reached, 0);
    });

    it('is cut at the service when the client breaks off', async () => {
      let served: Socket | undefined;
      const service = await serve(scope, local, (socket) => {
        served = socket;
        socket.resume();
      });
      const connection = await forward(nameOf(service));
      const socket = await until('it is served', () => served);
      const closed = once(socket, 'close');
      connection.on('error', () => undefined);
      connection.destroy();
      socket.once('end', () => socket.end());
      await closed;
    });
  });

describe('a service', () => {
  for (const text of [
    ...['', 'host', 'host:', ':80', 'host:0', 'host:65536', 'host:-1', 'host:1e3'],
    ...['a b:80', 'file:', 'file:relative', '/etc/passwd:80'],
  ])
    it(`is not ${JSON.stringify(text)}`, () =>
      assert.throws(() => parseService(text), { code: 'TSI_FAILED' }));
});

describe('a forwarded connection with a limit', () => {
  it('takes the time that its bytes need', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope, {
      properties: ['tsi.port_forwarding.rate_limit=100000'],
    });
    const link = await linkTo(scope, agent.socket);
    const service = await serve(scope, local, afterwards);
    const connection = await link.forward(alice, nameOf(service), signal);
    const started = performance.now();
    const answer = await say(connection, 'x'.repeat(50_000));
    const ms = performance.now() - started;
    assert.equal(answer.length, '50000 bytes: '.length + 50_000);
    assert.ok(ms >= 800, `100 KB at 100 KB/s took ${ms} ms`);
  });
});
