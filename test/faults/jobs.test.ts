import assert from 'node:assert/strict';
import { appendFileSync, chmodSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { mountTinyDisk } from '../kernel/persistence/tiny-disk.js';
import { Agent, scratch } from '../xnjs/job/rig.js';
import { Proxy } from './proxy.js';
import { Server, settle, states } from './rig.js';
import { FaultTable } from './table.js';

/** What happens to the world of a server, and how that becomes whole again. */
type Fault = {
  readonly name: string;
  readonly strike: (world: World) => Promise<void> | void;
  /** Only once the server has noticed. */
  readonly heal?: (world: World) => Promise<void> | void;
};

type World = { readonly agent: Agent; readonly proxy: Proxy };

const faults: readonly Fault[] = [
  {
    name: 'kill -9 of the agent',
    strike: ({ agent }) => agent.kill(),
    heal: ({ agent }) => agent.start(),
  },
  { name: 'connection cut', strike: ({ proxy }) => proxy.cut() },
  {
    name: 'connections of all workers cut',
    strike: ({ proxy }) => proxy.cut({ oldestToo: false }),
  },
  {
    name: 'connection cut, and refused until the server has noticed',
    strike: ({ proxy }) => proxy.cut({ forGood: true }),
    heal: ({ proxy }) => proxy.heal(),
  },
  { name: 'connection slower by 100 ms each way', strike: ({ proxy }) => proxy.delay(100) },
  {
    name: 'connection silent until the server has noticed',
    strike: ({ proxy }) => proxy.stall(),
    heal: ({ proxy }) => proxy.heal(),
  },
];

// each has a world of its own, and waits half of its time
describe('what a job survives, in each of its states', { timeout: 300_000, concurrency: 2 }, () => {
  const table = new FaultTable();
  after(() => table.print());

  it('kill -9 of the server before a state is stored', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const agent = new Agent(directory);
    scope.defer(() => agent.kill());
    await agent.start();
    const accepted: string[] = [];
    for (const state of states) {
      const server = await Server.start(scope, directory, agent.socket, [`before ${state}`]);
      await server.pass(state);
      await server.exited;
      accepted.push(...server.accepted);
    }
    const jobs = await settle(directory, agent.socket, accepted);
    table.survived('kill -9 of the server', 'before each state is stored', jobs);
  });

  it('kill -9 of the server when a state has just been stored', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const agent = new Agent(directory);
    scope.defer(() => agent.kill());
    await agent.start();
    const server = await Server.start(scope, directory, agent.socket);
    for (const state of states) await server.pass(state, { hold: true });
    await server.kill();
    const jobs = await settle(directory, agent.socket, server.accepted);
    table.survived('kill -9 of the server', 'after each state is stored', jobs);
  });

  for (const { name, strike, heal } of faults)
    it(name, async () => {
      await using scope = new Scope();
      const directory = scratch(scope);
      const agent = new Agent(directory);
      scope.defer(() => agent.kill());
      await agent.start();
      const wire = join(directory, 'wire.sock');
      scope.defer(() => rmSync(wire, { force: true }));
      const proxy = scope.use(await Proxy.open(wire, { path: agent.socket }));
      const server = await Server.start(scope, directory, wire);
      for (const state of states) await server.pass(state, { hold: true });
      await strike({ agent, proxy });
      server.release();
      if (heal) {
        await server.linkDown();
        await heal({ agent, proxy });
      }
      await server.idle();
      await server.kill();
      const jobs = await settle(directory, agent.socket, server.accepted);
      table.survived(name, 'each state', jobs);
    });

  it('a disk that is full until the server has noticed', async (t) => {
    await using scope = new Scope();
    const disk = await mountTinyDisk(scope, '24m');
    if ('skip' in disk) {
      t.skip(disk.skip);
      return;
    }
    chmodSync(disk.path, 0o755);
    mkdirSync(join(disk.path, 'jobs'));
    chmodSync(join(disk.path, 'jobs'), 0o1777);
    const agent = new Agent(disk.path);
    scope.defer(() => agent.kill());
    await agent.start();
    const server = await Server.start(scope, disk.path, agent.socket);
    for (const state of states) await server.pass(state, { hold: true });
    const filler = join(disk.path, 'filler');
    fill(filler);
    server.release();
    await server.diskFull();
    rmSync(filler);
    await server.idle();
    await server.kill();
    // no room for an exit code either
    const excuse = /no space|disk is full|left no exit code/i;
    const jobs = await settle(disk.path, agent.socket, server.accepted, excuse);
    table.survived('disk full: of the server, the agent and the jobs', 'each state', jobs);
  });
});

/** Takes what is left of a file system. */
function fill(file: string): void {
  const chunk = Buffer.alloc(65_536, 'x');
  for (const size of [chunk.length, 512])
    try {
      for (;;) appendFileSync(file, chunk.subarray(0, size));
    } catch (error) {
      assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
    }
}
