import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { CallbackRange } from '#xnjs/tsi/callback-range.js';
import { ClassicBinding } from '#xnjs/vm/classic-binding.js';
import { serve, startMain } from '../tsi/trial-main.js';
import { alice, startAgent, until, type AgentProcess } from '../../tsi/agent-process.js';

/** A machine whose agent listens at an address that its hypervisor tells, and may move. */
class Machine {
  addresses: readonly string[] = [];
  failing = false;
  readonly #scope: Scope;
  agent: AgentProcess | undefined;

  constructor(scope: Scope) {
    this.#scope = scope;
  }

  async start(address: string, port = 0): Promise<void> {
    const properties = [
      `tsi.my_addr=${address}`,
      `tsi.my_port=${port}`,
      'tsi.unicorex_machine=127.0.0.1,::1',
    ];
    this.agent = await startAgent(this.#scope, { properties });
    this.addresses = [address];
  }

  async bind(ports?: readonly number[]): Promise<{ binding: ClassicBinding; news: boolean[] }> {
    ports ??= [(await this.agent?.port()) ?? 1];
    const listener = this.#scope.use(
      new CallbackRange({ host: undefined, firstPort: 0, lastPort: 0, log: silentLog }),
    );
    const binding = this.#scope.use(
      new ClassicBinding({
        name: 'vm',
        login: alice.login,
        addresses: () =>
          this.failing
            ? Promise.reject(new Error('no hypervisor'))
            : Promise.resolve(this.addresses),
        ports,
        listener,
        heartbeatMs: 50,
        silenceMs: 1_000,
        clock: systemClock,
        log: silentLog,
      }),
    );
    const news: boolean[] = [];
    binding.onChange((up) => news.push(up));
    return { binding, news };
  }
}

describe('a target system that is bound to an address', () => {
  it('is up when its main answers, down when it does not, and up again at another address', async () => {
    await using scope = new Scope();
    const machine = new Machine(scope);
    await machine.start('127.0.0.1');
    const port = await machine.agent!.port();
    const { binding, news } = await machine.bind();
    await until('it is up', () => news.length === 1);
    assert.equal(await binding.tsi.execute(alice, 'echo one'), 'one\n');
    assert.equal(binding.arrays, true); // our agent says so

    machine.agent!.child.kill('SIGKILL');
    await until('it is down', () => news.length === 2);
    assert.throws(() => binding.tsi, { code: 'TSI_UNAVAILABLE', message: /vm does not answer/ });

    await machine.start('::1', port);
    await until('it is up again', () => news.length === 3);
    assert.equal(await binding.tsi.execute(alice, 'echo two'), 'two\n');
    assert.deepEqual(news, [true, false, true]);
  });

  it('is down when its TSI hangs, and up again when it goes on', async () => {
    await using scope = new Scope();
    const machine = new Machine(scope);
    await machine.start('127.0.0.1');
    const { binding, news } = await machine.bind();
    await until('it is up', () => news.length === 1);
    machine.agent!.child.kill('SIGSTOP');
    await until('it is down', () => news.length === 2);
    machine.agent!.child.kill('SIGCONT');
    await until('it is up again', () => news.length === 3);
    assert.equal(await binding.tsi.execute(alice, 'echo on'), 'on\n');
  });

  it('is up in the end where each worker takes longer to come than the binding waits at first', async () => {
    await using scope = new Scope();
    let last: Promise<unknown> = Promise.resolve();
    const port = await startMain(scope, async (socket, replyPort) => {
      const reply = await replyPort();
      const before = last;
      // one after the other, as the original does, whether or not somebody still waits for it
      last = before
        .then(() => socket.write('OK\n'))
        .then(() => sleep(1_300))
        .then(() => serve(reply))
        .catch(() => socket.destroy());
      await last;
    });
    const machine = new Machine(scope);
    machine.addresses = ['127.0.0.1'];
    const { news } = await machine.bind([port]);
    await until('it is up', () => news.length === 1);
  });

  it('stays up while jobs hold all of its workers', async () => {
    await using scope = new Scope();
    const machine = new Machine(scope);
    await machine.start('127.0.0.1');
    const { binding, news } = await machine.bind();
    await until('it is up', () => news.length === 1);
    const scripts = Array.from({ length: 8 }, () => binding.tsi.execute(alice, 'sleep 0.6'));
    await Promise.all(scripts); // twelve heartbeats each
    assert.deepEqual(news, [true]);
  });

  it('is up as long as one of its TSIs is', async () => {
    await using scope = new Scope();
    const machine = new Machine(scope);
    const agents: AgentProcess[] = [];
    for (let i = 0; i < 2; i += 1) {
      await machine.start('127.0.0.1');
      agents.push(machine.agent!);
    }
    const { binding, news } = await machine.bind(
      await Promise.all(agents.map((agent) => agent.port())),
    );
    await until('it is up', () => news.length === 1);
    const parents = new Set<string>();
    const ask = async (): Promise<void> =>
      void parents.add(await binding.tsi.execute(alice, 'ps -o ppid= $$'));
    await until('both have served', async () => ask().then(() => parents.size === 2));
    agents[0]!.child.kill('SIGKILL');
    await until('only one is left', async () => {
      parents.clear();
      for (let i = 0; i < 4; i += 1) await ask().catch(() => parents.add('lost'));
      return parents.size === 1 && !parents.has('lost');
    });
    assert.deepEqual(news, [true]);
    agents[1]!.child.kill('SIGKILL');
    await until('it is down', () => news.length === 2);
  });

  it('waits for an address, and for a hypervisor that tells it', async () => {
    await using scope = new Scope();
    const machine = new Machine(scope);
    await machine.start('127.0.0.1');
    const { addresses } = machine;
    machine.addresses = [];
    machine.failing = true;
    const { binding, news } = await machine.bind();
    await until('the reason is known', () => {
      try {
        return !!binding.tsi.ping;
      } catch (error) {
        return String(error).includes('no hypervisor');
      }
    });
    machine.failing = false;
    // an old address that nobody has any more comes first
    machine.addresses = ['127.0.0.3', ...addresses];
    await until('it is up', () => news.length === 1);
  });

  it('closes twice, while it is up and while nothing answers', async () => {
    await using scope = new Scope();
    const machine = new Machine(scope);
    const { binding } = await machine.bind();
    await Promise.all([binding[Symbol.asyncDispose](), binding[Symbol.asyncDispose]()]);
    await machine.start('127.0.0.1');
    const second = await machine.bind();
    await until('it is up', () => second.news.length === 1);
    await second.binding[Symbol.asyncDispose]();
    await second.binding[Symbol.asyncDispose]();
  });
});
