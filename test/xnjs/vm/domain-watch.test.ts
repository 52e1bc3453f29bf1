import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Clock } from '#kernel/clock.js';
import { GridError } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import { DomainWatch } from '#xnjs/vm/domain-watch.js';
import type { DomainLook } from '#xnjs/vm/hypervisor.js';
import { step, type VmEvent } from '#xnjs/vm/state.js';
import { aTargetSystem } from './samples.js';

const id = aTargetSystem().id;
const runs: DomainLook = { id, state: 'running', reason: 'the machine runs', answers: true };
const unavailable = () => new GridError('HYPERVISOR_UNAVAILABLE', 'libvirt did not answer');

/** A fake hypervisor that says what it is told to. */
function watched(intervalMs = 2_000) {
  let nowMs = 100_000;
  let record = aTargetSystem();
  let answer: readonly DomainLook[] | Error = [runs];
  const stopped: string[] = [];
  const say = (event: VmEvent): void => {
    record = step(record, event);
  };
  const watch = new DomainWatch({
    hosts: {
      areMany: false,
      driversOf: () => ['qemu'],
      of: () => ({
        look: () =>
          answer instanceof Error ? Promise.reject(answer) : Promise.resolve([...answer]),
      }),
    },
    records: {
      all: () => [record],
      find: (wanted) => (wanted === id ? record : undefined),
      apply: (_, event) => {
        say(event);
        return Promise.resolve();
      },
    },
    started: () => [id],
    onStopped: (_, reason) => stopped.push(reason),
    intervalMs,
    clock: { now: () => nowMs } as Clock, // nothing sleeps here
    log: silentLog,
    stopping: new AbortController().signal,
  });
  const agent = (type: 'agentUp' | 'agentDown'): void =>
    say({ type, evidence: { source: 'agent', fact: type, atMs: nowMs }, boot: {} });
  agent('agentUp');
  return {
    watch,
    stopped,
    agent,
    state: () => `${record.state}: ${record.evidence.fact}`,
    look: async (next: readonly DomainLook[] | Error, times = 1): Promise<void> => {
      answer = next;
      for (let n = 0; n < times; n++) {
        nowMs += intervalMs;
        await watch.look({ host: 'local', driver: 'qemu' });
      }
    },
  };
}

describe('what hypervisors say of machines', () => {
  const silent: DomainLook = { id, state: 'running', reason: 'the machine runs' };

  it('a process that does not answer hangs after 4 s, and not before', async () => {
    const { look, state } = watched();
    await look([runs]);
    await look([{ ...runs, answers: false }], 2);
    assert.equal(state(), 'READY: agentUp');
    await look([silent]);
    assert.match(state(), /^DEGRADED: .*hangs/);
    await look([runs]);
    assert.equal(state(), 'READY: agentUp');
  });

  it('one call that fails is no silence, however rarely machines are looked at', async () => {
    const { look, state } = watched(10_000);
    await look([runs]);
    await look(unavailable());
    assert.equal(state(), 'READY: agentUp');
    await look(unavailable());
    assert.match(state(), /^DEGRADED: .*does not answer/);
    await look([runs]);
    assert.equal(state(), 'READY: agentUp');
  });

  it('one that cannot be asked at all does not hang', async () => {
    const { look, state } = watched();
    await look([silent], 5);
    assert.equal(state(), 'READY: agentUp');
  });

  it('one that hangs before it was ever asked hangs, where others have answered', async () => {
    const { watch, look, state } = watched();
    await look([runs]);
    watch.forget(id); // another machine in its place
    await look([silent], 2);
    assert.equal(state(), 'READY: agentUp');
    await look([silent]);
    assert.match(state(), /^DEGRADED: .*hangs/);
  });

  it('a guest behind a silent agent hangs, with or without progress of its processors', async () => {
    const { look, state, agent } = watched();
    agent('agentDown');
    for (let cpuMs = 10; cpuMs < 60; cpuMs += 10) await look([{ ...runs, cpuMs }]);
    assert.match(state(), /^UNREACHABLE: .*processors work/);
    await look([{ ...runs, cpuMs: 60 }], 6);
    assert.match(state(), /^UNREACHABLE: .*make no progress: its guest hangs/);
  });

  it('a hypervisor that is away for 8 s makes a machine that answers DEGRADED, never FAILED', async () => {
    const { look, state, stopped } = watched();
    await look([runs]);
    await look(unavailable(), 3);
    assert.equal(state(), 'READY: agentUp');
    await look(unavailable(), 20);
    assert.equal(state(), 'DEGRADED: the hypervisor does not answer');
    assert.deepEqual(stopped, []);
    await look([runs]);
    assert.equal(state(), 'READY: agentUp');
  });

  it('a machine that has stopped, or is gone, is found also where the event was lost', async () => {
    const { look, stopped } = watched();
    await look([{ ...runs, state: 'stopped', reason: 'the machine has stopped' }]);
    await look([]);
    assert.deepEqual(stopped, ['the machine has stopped', 'the domain no longer exists']);
  });

  it('an event that came after a look had begun is not overruled by it', async () => {
    const { look, state, watch } = watched();
    const looking = look([runs]);
    watch.onEvent({ id, state: 'paused', reason: 'the machine is paused: by order' });
    await looking;
    assert.match(state(), /^PAUSED/);
    await look([runs]);
    assert.equal(state(), 'READY: agentUp');
  });
});
