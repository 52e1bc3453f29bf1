import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { AgentLink } from '#xnjs/tsi/agent-link.js';
import { createTsi } from '#xnjs/tsi/tsi-client.js';
import {
  alice,
  dialUnix,
  linkTo,
  nobodyId,
  scratch,
  startAgent,
  until,
} from '../../tsi/agent-process.js';

/** A socket that passes on to the agent, or does what the test says first. */
async function between(
  scope: Scope,
  agent: string,
  meddle: (client: Socket, number: number) => boolean,
): Promise<{ path: string; clients: Socket[]; server: Server }> {
  const path = join(scratch(scope), 'between.sock');
  const clients: Socket[] = [];
  const server = createServer((client) => {
    client.on('error', () => undefined);
    clients.push(client);
    if (!meddle(client, clients.length)) return;
    void dialUnix(agent).then((upstream) => {
      upstream.on('error', () => undefined);
      client.pipe(upstream).pipe(client);
      client.on('close', () => upstream.destroy());
      upstream.on('close', () => client.destroy());
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  scope.defer(() => {
    clients.forEach((client) => client.destroy());
    server.close();
  });
  return { path, clients, server };
}

describe('the agent link', () => {
  it('tells facts of the guest', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const facts = await (await linkTo(scope, agent.socket)).facts();
    assert.equal(facts.tsiVersion, '11.2.1');
    assert.ok(facts.cores >= 1 && facts.memoryBytes > 0);
    assert.ok(facts.agentMs <= facts.uptimeMs && facts.agentMs > facts.uptimeMs - 60_000);
  });

  it('comes up when the agent starts late, and again when it was killed and started anew', async () => {
    await using scope = new Scope();
    const dir = scratch(scope);
    const states: string[] = [];
    const link = scope.use(
      new AgentLink({
        name: 'late',
        dial: () => dialUnix(join(dir, 'link.sock')),
        heartbeatMs: 100,
        clock: systemClock,
        log: silentLog,
      }),
    );
    link.onChange((state) => states.push(state));
    assert.equal(link.state, 'connecting');
    await assert.rejects(link.facts(), { code: 'TSI_UNAVAILABLE' });
    await assert.rejects(link.transport().open(AbortSignal.timeout(1_000)), {
      code: 'TSI_UNAVAILABLE',
    });
    const first = await startAgent(scope, { dir });
    await until('it is up', () => link.state === 'up');
    first.child.kill('SIGKILL');
    await until('it is down', () => link.state === 'down');
    await startAgent(scope, { dir });
    await until('it is up again', () => link.state === 'up');
    assert.deepEqual(states, ['up', 'down', 'up']);
  });

  it('notices an agent that hangs, by its heartbeat', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const link = await linkTo(scope, agent.socket, { heartbeatMs: 100, silenceMs: 500 });
    agent.child.kill('SIGSTOP');
    await until('it is down', () => link.state === 'down');
    agent.child.kill('SIGCONT');
    await until('it is up again', () => link.state === 'up');
  });

  it('keeps the time of the last heartbeat', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const link = await linkTo(scope, agent.socket, { heartbeatMs: 20 });
    const first = link.times.heartbeatMs ?? 0;
    await until('a later one comes', () => (link.times.heartbeatMs ?? 0) > first);
    assert.ok(link.times.sinceMs <= first);
  });

  const stale: readonly (readonly [string, Buffer])[] = [
    ['half a frame', Buffer.from([0, 64, 0, 0, 0])],
    ['the end of a file', Buffer.alloc(50_000, 'x')],
    ['a frame that is whole', Buffer.from([0, 0, 8, 6, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])],
  ];
  for (const [what, bytes] of stale)
    it(`calls again when ${what} of an earlier session lies in the channel`, async () => {
      await using scope = new Scope();
      const agent = await startAgent(scope);
      const { path, clients } = await between(scope, agent.socket, (client, number) => {
        if (number === 1) client.write(bytes);
        return true;
      });
      const link = await linkTo(scope, path, { handshakeMs: 500 });
      assert.equal((await link.facts()).tsiVersion, '11.2.1');
      assert.ok(clients.length >= 2);
    });

  it('does not trust a connection that says nothing', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const { path } = await between(scope, agent.socket, (_, number) => number > 2);
    const link = await linkTo(scope, path, { handshakeMs: 200 });
    assert.equal((await link.facts()).tsiVersion, '11.2.1');
  });

  it('gives its workers up when the connection breaks under them, and opens others', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const { path, clients } = await between(scope, agent.socket, () => true);
    const link = await linkTo(scope, path);
    const tsi = scope.use(createTsi(link.transport(), { clock: systemClock, log: silentLog }));
    const running = tsi.execute(alice, 'sleep 600');
    running.catch(() => undefined);
    await until('the script is asked for', () => tsi.status());
    clients.forEach((client) => client.destroy());
    await assert.rejects(running, { code: 'TSI_UNAVAILABLE' });
    await until('the link is up again', () => link.state === 'up');
    assert.equal(await tsi.execute(alice, 'echo on'), 'on\n');
  });

  it('carries many workers at once', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const link = await linkTo(scope, agent.socket);
    const options = { clock: systemClock, log: silentLog, workers: 16 };
    const tsi = scope.use(createTsi(link.transport(), options));
    const numbers = Array.from({ length: 64 }, (_, at) => at);
    const printed = await Promise.all(numbers.map((at) => tsi.execute(alice, `echo ${at}`)));
    assert.deepEqual(printed.map(Number), numbers);
  });

  it('carries uploads and downloads at once, more than any buffer on the way holds', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const link = await linkTo(scope, agent.socket);
    const options = { clock: systemClock, log: silentLog, workers: 8 };
    const tsi = scope.use(createTsi(link.transport(), options));
    const dir = scratch(scope, nobodyId);
    const content = Buffer.alloc(32 * 1024 * 1024, 'x');
    writeFileSync(join(dir, 'big'), content, { mode: 0o644 });
    const down = async (): Promise<number> => {
      let received = 0;
      for await (const chunk of tsi.read(alice, join(dir, 'big')))
        received += (chunk as Buffer).length;
      return received;
    };
    const up = (name: string): Promise<number> =>
      tsi.write(alice, join(dir, name), Readable.from([content]));
    const sizes = await Promise.all([up('1'), down(), up('2'), down(), up('3'), down()]);
    assert.ok(sizes.every((size) => size === content.length));
    assert.equal(link.state, 'up');
  });

  it('shuts the agent down, which ends with 0', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const link = await linkTo(scope, agent.socket);
    const ended = once(agent.child, 'exit');
    await link.shutdown();
    assert.deepEqual(await ended, [0, null]);
    await until('the link is down', () => link.state === 'down');
  });

  it('closes twice, while it is up and while nothing answers', async () => {
    await using scope = new Scope();
    const agent = await startAgent(scope);
    const up = await linkTo(scope, agent.socket);
    await Promise.all([up.close(), up.close()]);
    await assert.rejects(up.facts(), { code: 'TSI_UNAVAILABLE' });
    const options = { name: 'no', heartbeatMs: 1_000, clock: systemClock, log: silentLog };
    const never = new AgentLink({ ...options, dial: () => new Promise(() => undefined) });
    await never.close();
    const refused = new AgentLink({ ...options, dial: () => dialUnix('/nowhere') });
    await refused.close();
    await refused.close();
  });
});
