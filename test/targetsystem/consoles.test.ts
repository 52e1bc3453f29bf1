import assert from 'node:assert/strict';
import { once } from 'node:events';
import { duplexPair, type Duplex } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import type { Caller } from '#kernel/http/caller.js';
import { createHttpClient, type HttpClient } from '#kernel/http/client.js';
import type { WebSocket } from '#kernel/http/client-websocket.js';
import { listen } from '#kernel/http/listen.js';
import { createRestApp, mount } from '#kernel/http/router.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { consoleOperations } from '#targetsystem/rest/console.js';
import { ConsoleConfig, Consoles } from '#targetsystem/rest/consoles.js';
import type { RestDeps } from '#targetsystem/rest/deps.js';
import { until } from '../xnjs/job/rig.js';

const dn = 'CN=Owner';
const caller: Caller = { dn, role: 'user' };

/** Server and clients are real; the machines are this test's, which has no hypervisor. */
describe('open consoles', { timeout: 60_000 }, () => {
  const scope = new Scope();
  const machines: { near: Duplex; far: Duplex }[] = [];
  let client: HttpClient;
  let consoles: Consoles;
  /** As they are by now. */
  let [owner, role] = [dn, 'user'];

  before(async () => {
    const systems = {
      get: () => ({ ownerDn: owner }),
      subscribe: () => () => undefined,
      consoles: {
        open: (id: string) => {
          if (id === 'off') return Promise.reject(new Error('off'));
          const [near, far] = duplexPair();
          machines.push({ near, far });
          return Promise.resolve(near);
        },
      },
    } as unknown as RestDeps['systems']; // what consoles need of them
    const config = ConsoleConfig.parse({
      ...{ perUser: 3, idleSeconds: 2, maxSeconds: 5, recheckSeconds: 0.05 },
    });
    consoles = scope.use(new Consoles({ systems, config }));
    const deps = { systems, consoles } as unknown as RestDeps; // as above
    const app = createRestApp({
      mounts: [mount('/rest/core', consoleOperations, deps)],
      authenticate: Object.assign(() => caller, {
        renew: () => Promise.resolve({ ...caller, role }),
      }),
      externalUrl: 'https://site/VSITE',
      log: silentLog,
    });
    const { port = 0 } = await listen(app, { host: '127.0.0.1', port: 0 }, scope, {
      upgrades: true,
    });
    client = scope.use(createHttpClient({ baseUrl: `http://127.0.0.1:${port}` }));
  });
  after(() => scope.close());

  async function open(id: string): Promise<{ socket: WebSocket; closed: Promise<unknown[]> }> {
    const socket = await client.webSocket(`/rest/core/sites/${id}/console`);
    socket.on('error', () => undefined);
    return {
      socket,
      closed: once(socket, 'close').then(([code, why]) => [code as number, String(why)]),
    };
  }
  const allGone = () => until('all are gone', () => consoles.size === 0);

  it('end when nothing is said for too long, or after their time', async () => {
    const idle = await open('idle');
    const busy = await open('busy');
    const machine = machines.at(-1)!;
    const chatter = setInterval(() => machine.far.write('x'), 100);
    idle.socket.resume();
    busy.socket.resume();
    assert.deepEqual(await idle.closed, [1008, 'idle']);
    assert.deepEqual(await busy.closed, [1008, 'over its time']);
    clearInterval(chatter);
    await until('the console is closed', () => machine.near.destroyed);
    await allGone();
  });

  it('end when what allowed them is taken away: the target system, or the role', async () => {
    for (const [taken, given] of [
      [() => (owner = 'CN=Another'), () => (owner = dn)],
      [() => (role = 'banned'), () => (role = 'user')],
    ] as const) {
      const { socket, closed } = await open('taken');
      socket.resume();
      taken();
      assert.deepEqual(await closed, [1008, 'not allowed any more']);
      await allGone();
      given();
    }
  });

  it('wait for no client that does not read', async () => {
    const slow = await open('slow');
    const { far } = machines.at(-1)!;
    far.on('error', () => undefined);
    const data = Buffer.alloc(64 * 1024, 'x');
    // far more than the network between can hold
    for (let sent = 0; sent < 64 * 1024 && consoles.size > 0; sent++) {
      far.write(data);
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.equal(consoles.size, 0);
    slow.socket.terminate();
  });

  it('are free again when a client breaks off, or none could be opened', async () => {
    const { socket } = await open('one');
    await assert.rejects(open('one'), { code: 'CONFLICT' });
    socket.terminate();
    await allGone();
    await assert.rejects(open('off'));
    assert.equal(consoles.size, 0);
    const all = await Promise.all(['one', 'two', 'three'].map(open));
    await assert.rejects(open('four'), { code: 'LIMIT_REACHED' });
    for (const each of all) each.socket.terminate();
    await allGone();
  });

  it('close with the server', async () => {
    const last = await open('last');
    last.socket.resume();
    consoles[Symbol.dispose]();
    assert.deepEqual(await last.closed, [1001, 'the server closes']);
  });
});
