import assert from 'node:assert/strict';
import { once } from 'node:events';
import { chownSync } from 'node:fs';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import type { Caller } from '#kernel/http/caller.js';
import { listen } from '#kernel/http/listen.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { createLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { CarryingConfig, type CarriedConnections } from '#targetsystem/rest/carried-connections.js';
import { forwardingOperations, openForwardings } from '#targetsystem/rest/forwarding.js';
import type { RestDeps } from '#targetsystem/rest/deps.js';
import { isRoot, nobodyId } from '../tsi/agent-process.js';
import { restDeps } from './rest-deps.js';
import { identity, ownerDn, startRig, until, type Rig } from '../xnjs/job/rig.js';

const protocol = 'UNICORE-Socket-Forwarding';
type Opened = { readonly socket: Duplex; readonly head: IncomingMessage };

/** Engine and agent are real; services are this process's. */
describe('port forwarding by REST', { timeout: 60_000 }, () => {
  const scope = new Scope();
  const lines: Record<string, unknown>[] = [];
  const served: Socket[] = [];
  let rig: Rig;
  let origin: { port: number };
  /** What the caller is by now. */
  let role = 'user';
  let connections: CarriedConnections;
  let echo: number;
  let job: string;

  before(async () => {
    rig = await startRig(scope);
    const log = createLog({
      stream: { write: (line) => void lines.push(JSON.parse(line) as never) },
    });
    const { engine: jobs } = rig;
    const systems = {
      find: (id: string) => {
        const target = rig.targets.find(id);
        return (
          target && {
            ...target,
            forward: (service: string, signal: AbortSignal) =>
              rig.link.forward(identity, service, signal),
          }
        );
      },
    } as unknown as RestDeps['systems']; // what forwarding needs of them
    connections = scope.use(
      openForwardings(
        jobs,
        CarryingConfig.parse({ perUser: 3, idleSeconds: 1, recheckSeconds: 0.05 }),
      ),
    );
    const app = createRestApp({
      mounts: [
        mount(
          '/rest/core',
          forwardingOperations,
          restDeps({ jobs, systems, forwardings: connections }),
        ),
      ],
      authenticate: Object.assign(
        ({ headers }: IncomingMessage): Caller =>
          headers['x-user'] === undefined
            ? { dn: ownerDn, role: 'user' }
            : { dn: 'CN=Other', role: 'anonymous' },
        { renew: (caller: Caller) => Promise.resolve({ ...caller, role }) },
      ),
      externalUrl: 'https://site/VSITE',
      log,
    });
    const { port = 0 } = await listen(app, { host: '127.0.0.1', port: 0 }, scope, {
      upgrades: true,
    });
    origin = { port };
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      served.push(socket.on('error', () => undefined));
      socket.on('data', (chunk) => socket.write(chunk)).on('end', () => socket.end('bye'));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    scope.defer(() => {
      for (const socket of served) socket.destroy();
      server.close();
    });
    echo = (server.address() as AddressInfo).port;
    job = await running();
  });
  after(() => scope.close());

  async function running(): Promise<string> {
    const id = await rig.submit({ Executable: 'sleep 100' });
    await until('it runs', async () => (await rig.engine.get(id)).state === 'RUNNING');
    return id;
  }

  function ask(id: string, query: string, headers: Record<string, string> = {}) {
    const path = `/rest/core/jobs/${id}/forward-port?${query}`;
    const upgrade = { connection: 'Upgrade', upgrade: protocol };
    return httpRequest({
      ...origin,
      path,
      agent: false,
      headers: { ...upgrade, ...headers },
    }).end();
  }
  async function open(id: string, query: string): Promise<Opened> {
    const request = ask(id, query);
    const [head, socket, first] = (await Promise.race([
      once(request, 'upgrade'),
      once(request, 'response').then(async ([answer]) => {
        throw new Error(await text(answer as IncomingMessage));
      }),
    ])) as [IncomingMessage, Socket, Buffer];
    if (first.length > 0) socket.unshift(first);
    socket.allowHalfOpen = true;
    return { socket: socket.on('error', () => undefined), head };
  }
  async function refused(id: string, query: string, headers?: Record<string, string>) {
    const [answer] = (await once(ask(id, query, headers), 'response')) as [IncomingMessage];
    return { status: answer.statusCode, text: await text(answer) };
  }
  const nothingOpen = () => until('all are closed', () => connections.size === 0);

  it('carries megabytes both ways, and the end of each side', async () => {
    const { socket, head } = await open(job, `port=${echo}&host=127.0.0.1&loginNode=any`);
    assert.equal(head.statusCode, 101);
    assert.equal(head.headers.upgrade, protocol);
    const sent = Buffer.alloc(3_000_000, 'abcdefg');
    socket.end(sent);
    const answer = await text(socket);
    assert.equal(answer, `${sent.toString()}bye`);
    await nothingOpen();
    const line = lines.find(({ msg }) => msg === 'forwarded connection closed');
    assert.deepEqual([line?.['sent'], line?.['received'], line?.['jobId']], [3e6, 3e6 + 3, job]);
    const request = lines.find(
      ({ msg, res }) => msg === 'request' && (res as { status: number }).status === 101,
    );
    assert.ok(request, 'the request is in the log');
  });

  it('reaches a socket in the directory of the job, and none outside', async () => {
    const { directory = '' } = await rig.engine.get(job);
    const server = createServer((socket) => socket.end('by file'));
    const path = join(directory, 'service.sock');
    await new Promise<void>((resolve) => server.listen(path, resolve));
    scope.defer(() => server.close());
    if (isRoot) chownSync(path, nobodyId, nobodyId);
    for (const file of ['service.sock', '/service.sock'])
      assert.equal(await text((await open(job, `file=${file}`)).socket.end()), 'by file');
    const outside = await refused(job, 'file=../x');
    assert.deepEqual([outside.status, outside.text.includes('file:')], [400, true]);
  });

  it('says before 101 what is wrong', async () => {
    const closed = createServer();
    await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve));
    const { port } = closed.address() as AddressInfo;
    await new Promise((resolve) => closed.close(resolve));
    const cases = [
      [job, `port=${port}`, 500, /ECONNREFUSED/],
      [job, '', 400, /port: missing/],
      [job, 'port=0', 400, /port/],
      [job, `port=${echo}&host=a%20b`, 400, /host/],
      [job, `port=${echo}&file=x`, 400, /port, file/],
      ['none', `port=${echo}`, 404, /no job none/],
    ] as const;
    for (const [id, query, status, reason] of cases) {
      const answer = await refused(id, query);
      assert.equal(answer.status, status, `${query}: ${answer.text}`);
      assert.match(answer.text, reason);
    }
    const waiting = await rig.submit({ Executable: 'x', haveClientStageIn: 'true' });
    assert.equal((await refused(waiting, `port=${echo}`)).status, 409);
    assert.equal((await refused(job, `port=${echo}`, { 'x-user': 'other' })).status, 403);
    assert.equal(connections.size, 0);
  });

  it('tells how it is asked for, without the header', async () => {
    const plain = await refused(job, `port=${echo}`, { connection: 'close', upgrade: 'none' });
    assert.equal(plain.status, 200);
    assert.match(plain.text, /Upgrade: UNICORE-Socket-Forwarding/);
    const other = await refused(job, `port=${echo}`, { upgrade: 'websocket' });
    assert.equal(other.status, 200);
  });

  it('has a limit for each user', async () => {
    const opened = [1, 2, 3].map(() => open(job, `port=${echo}`));
    const sockets = (await Promise.all(opened)).map(({ socket }) => socket);
    const { status, text: reason } = await refused(job, `port=${echo}`);
    assert.deepEqual([status, reason.includes('3 of each user')], [429, true]);
    sockets.forEach((socket) => socket.destroy());
    await nothingOpen();
    (await open(job, `port=${echo}`)).socket.destroy();
  });

  it('ends at the service when the client breaks off', async () => {
    const before = served.length;
    const { socket } = await open(job, `port=${echo}`);
    await until('it is served', () => served.length > before);
    socket.destroy();
    await until('its end is seen', () => served.at(-1)!.destroyed);
  });

  it('ends when nothing is said for too long', async () => {
    const { socket } = await open(job, `port=${echo}`);
    socket.resume();
    await once(socket, 'end');
    assert.ok(
      lines.some(({ msg, reason }) => msg === 'forwarded connection closed' && reason === 'idle'),
    );
  });

  it('ends when its client is banned', async () => {
    const { socket } = await open(job, `port=${echo}&host=127.0.0.1`);
    socket.write('x');
    await once(socket, 'data');
    role = 'banned';
    await once(socket.resume(), 'end');
    await nothingOpen();
    assert.ok(lines.some(({ reason }) => reason === 'not allowed any more'));
    role = 'user';
  });

  it('ends with its job', async () => {
    const id = await running();
    const { socket } = await open(id, `port=${echo}`);
    socket.write('x');
    await once(socket, 'data');
    await rig.engine.destroy(id);
    socket.resume();
    await once(socket, 'end');
    assert.equal((await refused(id, `port=${echo}`)).status, 404);
  });
});
