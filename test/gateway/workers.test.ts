import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import cluster, { type Worker } from 'node:cluster';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { Agent } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, it } from 'node:test';
import { connect } from 'node:tls';
import { silentLog } from '#kernel/log.js';
import { nodeFlags, program } from '../program.js';
import { eventually, startRig, type Answer, type Asked, type Rig } from './rig.js';

/** Clients that ask without a pause, half of them over a kept connection, half over new ones; tells what went wrong. */
function startLoad(request: (options: Asked) => Promise<Answer>) {
  const outcomes: string[] = [];
  let stopped = false;
  const client = async (number: number) => {
    const agent = new Agent({ keepAlive: number % 2 === 0, maxSockets: 1 });
    for (let i = 0; !stopped; i++) {
      const options = i % 2 ? { method: 'POST', body: `${number} ${i}` } : {};
      const expected = i % 2 ? `got ${number} ${i}` : 'got';
      outcomes.push(
        await request({ path: '/VSITE/x', agent, ...options }).then(
          ({ status, body }) =>
            status === 200 && body === expected ? 'good' : `${status} ${body}`,
          (error: unknown) => `client ${number} request ${i}: ${String(error)}`,
        ),
      );
    }
    agent.destroy();
  };
  const clients = Array.from({ length: 6 }, (_, number) => client(number));
  const stop = async () => {
    stopped = true;
    await Promise.all(clients);
    return outcomes.filter((outcome) => outcome !== 'good');
  };
  return {
    outcomes,
    stop,
    [Symbol.asyncDispose]: async () => {
      await stop();
    },
  };
}

const startEcho = (options: Parameters<typeof startRig>[1]) =>
  startRig((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (part: string) => (body += part));
    request.on('end', () => response.end(`got ${body}`.trim()));
  }, options);

describe('a gateway of several processes', () => {
  let rig: Rig;
  let scratch: string;
  const secret = 'correct horse battery';
  const pids = () => Object.values(cluster.workers ?? {}).map((worker) => worker?.process.pid);
  /** Workers that take connections: one is there before it does. */
  const listening = new Set<Worker>();
  const note = (worker: Worker, { type }: { type?: string }) =>
    type === 'listening' && listening.add(worker);
  const bothListen = () => {
    const workers = Object.values(cluster.workers ?? {});
    return workers.length === 2 && workers.every((worker) => worker && listening.has(worker));
  };
  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), 'gateway-secret-'));
    const secretFile = join(scratch, 'secret');
    await writeFile(secretFile, secret);
    cluster.on('message', note);
    rig = await startEcho({ workers: 2, log: silentLog, registration: { secretFile } });
  });
  after(async () => {
    cluster.off('message', note);
    await rig[Symbol.asyncDispose]();
    await rm(scratch, { recursive: true });
  });

  it('loses no request while its workers are replaced', async () => {
    const old = pids();
    assert.equal(old.length, 2);
    await using load = startLoad((options) => rig.request(options));
    await eventually(() => load.outcomes.length > 50, 'there is load');
    process.kill(process.pid, 'SIGUSR2');
    await eventually(
      () => pids().length === 2 && !pids().some((pid) => old.includes(pid)),
      'the workers are others',
    );
    const before = load.outcomes.length;
    await eventually(() => load.outcomes.length > before + 50, 'work goes on');
    assert.deepEqual(await load.stop(), []);
  });
  it('replaces a worker that was killed, and serves meanwhile', async () => {
    const [victim] = pids();
    process.kill(victim!, 'SIGKILL');
    await eventually(() => !pids().includes(victim), 'it is gone');
    assert.equal((await rig.request({ path: '/VSITE/x' })).body, 'got');
    await eventually(bothListen, 'there are two again');
  });
  it('goes on trying to replace a worker while its files are wrong', async () => {
    await writeFile(join(scratch, 'secret'), 'short');
    process.kill(pids()[0]!, 'SIGKILL');
    const [unlucky] = (await once(cluster, 'fork')) as [Worker];
    await once(unlucky, 'exit');
    await writeFile(join(scratch, 'secret'), secret);
    await eventually(bothListen, 'another has taken its place');
  });
  it('gives to another what a worker did not take before it died', async () => {
    const [stuck] = pids();
    process.kill(stuck!, 'SIGSTOP');
    let answered = 0;
    const asked = Array.from({ length: 8 }, () =>
      rig.request({ path: '/VSITE/x', signal: AbortSignal.timeout(5_000) }).then(
        ({ body }) => {
          answered++;
          return body;
        },
        (error: unknown) => String(error),
      ),
    );
    try {
      await eventually(() => answered === 4, 'the other worker has answered its half');
    } finally {
      process.kill(stuck!, 'SIGKILL');
    }
    // One was on its way
    const lost = (await Promise.all(asked)).filter((body) => body !== 'got');
    assert.ok(lost.length <= 1, lost.join());
    await eventually(bothListen, 'there are two again');
  });
  it('tells all its workers, later ones too, of a site that registered with one', async () => {
    const form = new URLSearchParams({ name: 'NEW', address: 'https://localhost:1', secret });
    const path = '/VSITE_REGISTRATION_REQUEST';
    const { status } = await rig.request({ path, method: 'POST', body: form.toString() });
    assert.equal(status, 201);
    // Connections go to the workers in turn
    const known = async () => {
      const asked = [1, 2, 3, 4].map(() => rig.request({ path: '/NEW/x' }));
      return (await Promise.all(asked)).every((answer) => answer.status === 503);
    };
    await eventually(known, 'all know the site');
  });
  it('resumes a TLS session with any of them', async () => {
    const options = {
      host: 'localhost',
      port: rig.port,
      ca: rig.ca,
      maxVersion: 'TLSv1.2',
    } as const;
    const first = connect(options);
    const [session] = (await once(first, 'session')) as [Buffer];
    first.destroy();
    for (let i = 0; i < 4; i++) {
      const socket = connect({ ...options, session });
      await once(socket, 'secureConnect');
      assert.equal(socket.isSessionReused(), true);
      socket.destroy();
    }
  });
  it('says why it does not start', async () => {
    const log = silentLog;
    await assert.rejects(startEcho({ workers: 2, log, port: rig.port }), {
      code: 'ADDRESS_IN_USE',
    });
    await assert.rejects(startEcho({ workers: 2, log, tls: { certFile: '/none.pem' } }), {
      code: 'CONFIG_INVALID',
      message: /\/none\.pem/,
    });
  });
});

/** A socket unit of systemd in short: listens, and starts the service with its socket as often as it is told. */
const socketUnit = `
import os, socket, subprocess, sys
s = socket.socket()
s.bind(('127.0.0.1', 0))
s.listen(128)
os.dup2(s.fileno(), 3)
print(s.getsockname()[1], flush=True)
for line in sys.stdin:
    shell = 'export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@" >/dev/null'
    service = subprocess.Popen(['sh', '-c', shell, 'sh', *sys.argv[1:]], pass_fds=[3])
    print(service.pid, flush=True)
    print('exit', service.wait(), flush=True)
`;

describe('a gateway as a service', () => {
  for (const [workers, restarts] of [
    [1, 1],
    [2, 3],
  ] as const)
    it(`of ${workers} loses no request when it is restarted with the socket of its service manager`, async () => {
      await using rig = await startEcho({ workers });
      const args = [...nodeFlags, program('cli/main.ts'), 'serve', '--config', rig.directory];
      const unit = spawn(
        'python3',
        ['-c', socketUnit, process.execPath, ...args, '--only', 'gateway'],
        { stdio: ['pipe', 'pipe', 'inherit'] },
      );
      const lines = createInterface(unit.stdout)[Symbol.asyncIterator]();
      const next = async () => String((await lines.next()).value);
      const port = Number(await next());
      unit.stdin.write('start\n');
      let pid = Number(await next());
      await using load = startLoad((asked) => rig.request({ ...asked, host: '127.0.0.1', port }));
      for (let i = 0; i < restarts; i++) {
        const before = load.outcomes.length;
        await eventually(() => load.outcomes.length > before + 50, 'there is load');
        // The next one comes up while the old one is on its way out
        unit.stdin.write('start\n');
        process.kill(pid, 'SIGTERM');
        assert.equal(await next(), 'exit 0');
        pid = Number(await next());
      }
      const before = load.outcomes.length;
      await eventually(() => load.outcomes.length > before + 50, 'work goes on');
      assert.deepEqual(await load.stop(), []);
      unit.stdin.end();
      process.kill(pid, 'SIGTERM');
      assert.equal(await next(), 'exit 0');
      await once(unit, 'exit');
    });
});
