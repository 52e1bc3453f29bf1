import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer as createHttp2Server } from 'node:http2';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { once } from 'node:events';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { createTsi, type TsiClient } from '#xnjs/tsi/tsi-client.js';
import {
  alice,
  dialUnix,
  linkTo,
  nobodyId,
  scratch,
  startAgent,
  until,
} from '../../tsi/agent-process.js';

/** Passes connections on to the agent and keeps them at hand; the test may see how each begins. */
async function relay(
  scope: Scope,
  agent: string,
  pass: (first: Buffer) => boolean = () => true,
): Promise<{ path: string; begun: string[]; clients: Socket[] }> {
  const path = join(scratch(scope), 'relay.sock');
  const begun: string[] = [];
  const clients: Socket[] = [];
  const server = createServer((client) => {
    client.on('error', () => undefined);
    clients.push(client);
    client.once('data', (first: Buffer) => {
      begun.push(first.toString('latin1').split(/[ \r\n]/, 1)[0] ?? '');
      if (!pass(first)) {
        client.destroy();
        return;
      }
      const upstream = connect(agent);
      upstream.on('error', () => undefined).on('close', () => client.destroy());
      client.on('close', () => upstream.destroy());
      upstream.write(first);
      client.pipe(upstream).pipe(client);
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  scope.defer(() => {
    clients.forEach((client) => client.destroy());
    server.close();
  });
  return { path, begun, clients };
}

async function clientAt(scope: Scope, path: string): Promise<TsiClient> {
  const link = await linkTo(scope, path, { dialsMany: true });
  return scope.use(createTsi(link.transport(), { clock: systemClock, log: silentLog }));
}

describe('workers with connections of their own', () => {
  it('carry commands and files, beside the one connection that speaks HTTP/2', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const { path, begun } = await relay(scope, agent.socket);
    const tsi = await clientAt(scope, path);
    assert.equal(await tsi.execute(alice, 'echo hello'), 'hello\n');
    const file = join(scratch(scope, nobodyId), 'file');
    const content = Buffer.from(Array.from({ length: 9_000_001 }, (_, at) => (at * 7919) >> 4));
    await tsi.write(alice, file, Readable.from([content.subarray(0, 5), content.subarray(5)]));
    assert.ok(content.equals(readFileSync(file)));
    assert.ok(content.equals(await buffer(tsi.read(alice, file))));
    const range = await buffer(tsi.read(alice, file, { offset: 4_194_300, length: 10 }));
    assert.ok(content.subarray(4_194_300, 4_194_310).equals(range));
    assert.equal(begun.filter((word) => word === 'PRI').length, 1);
    assert.ok(begun.includes('VSITE-CHANNEL'));
  });

  it('goes on after a file that cannot be read or written, in both ways', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const tsi = await clientAt(scope, agent.socket);
    await assert.rejects(buffer(tsi.read(alice, '/nowhere')), { code: 'TSI_FAILED' });
    const none = tsi.write(alice, '/nowhere/x', Readable.from([Buffer.alloc(100)]));
    await assert.rejects(none, { code: 'TSI_FAILED' });
    assert.equal(await tsi.execute(alice, 'echo on'), 'on\n');
  });

  it('end with the link, and are opened anew', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const { path, clients, begun } = await relay(scope, agent.socket);
    const link = await linkTo(scope, path, { dialsMany: true });
    const states: string[] = [];
    link.onChange((state) => states.push(state));
    const tsi = scope.use(createTsi(link.transport(), { clock: systemClock, log: silentLog }));
    const running = tsi.execute(alice, 'sleep 600');
    running.catch(() => undefined);
    await until('the script is asked for', () => begun.length >= 3);
    clients[0]?.destroy(); // the one that is watched
    await assert.rejects(running, { code: 'TSI_UNAVAILABLE' });
    await until('the link is up again', () => states.at(-1) === 'up');
    assert.equal(await tsi.execute(alice, 'echo on'), 'on\n');
  });

  it('are streams of the link where the agent knows no others', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const { path, begun } = await relay(scope, agent.socket, (first) => first.includes('PRI'));
    const tsi = await clientAt(scope, path);
    assert.equal(await tsi.execute(alice, 'echo on'), 'on\n');
    assert.ok(begun.includes('VSITE-CHANNEL'));
    const old = await oldAgent(scope);
    const channels = (await linkTo(scope, old, { dialsMany: true })).transport();
    const { command, data } = await channels.open(AbortSignal.timeout(5_000));
    command.write('who are you\n');
    assert.equal(String((await once(command, 'data'))[0]), 'WHO ARE YOU\n');
    command.destroy();
    data.destroy();
  });

  it('are refused to who says nothing sensible', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const nonsense = ['VSITE-CHANNEL x data\n', 'x'.repeat(200), '\n', 'GET / HTTP/1.1\r\n\r\n'];
    await Promise.all(
      nonsense.map(async (first) => {
        const socket = await dialUnix(agent.socket);
        socket.on('error', () => undefined);
        socket.write(first);
        socket.resume();
        await once(socket, 'close');
      }),
    );
    const tsi = await clientAt(scope, agent.socket);
    assert.equal(await tsi.execute(alice, 'echo on'), 'on\n');
  });
});

/** Takes every connection for HTTP/2, as agents did before; answers in capitals. */
async function oldAgent(scope: Scope): Promise<string> {
  const server = createHttp2Server();
  server.on('sessionError', () => undefined);
  server.on('stream', (stream) => {
    stream.on('error', () => undefined);
    stream.respond({ ':status': 200 });
    stream.on('data', (text: Buffer) => stream.write(text.toString().toUpperCase()));
  });
  const path = join(scratch(scope), 'old.sock');
  await new Promise<void>((resolve) => server.listen(path, resolve));
  scope.defer(() => server.close());
  return path;
}
