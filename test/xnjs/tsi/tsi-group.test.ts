import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { TsiError } from '#tsi/protocol/error.js';
import { matchesNode } from '#xnjs/tsi/node-name.js';
import { createTsi } from '#xnjs/tsi/tsi-client.js';
import { TsiGroup } from '#xnjs/tsi/tsi-group.js';
import type { TsiTransport } from '#xnjs/tsi/tsi.js';
import { scriptedTsi } from './scripted-tsi.js';

const alice = { login: 'alice', groups: 'NONE' };

/** A TSI that says its name, and can be switched off: before a worker is made, or under its work. */
class Node {
  state: 'up' | 'down' | 'breaks' = 'up';
  asked = 0;
  readonly name: string;
  readonly transport: TsiTransport;

  constructor(name: string) {
    this.name = name;
    const tsi = scriptedTsi(async (peer) => {
      for (let request = await peer.next(); request !== undefined; request = await peer.next()) {
        this.asked += 1;
        if (this.state !== 'up') {
          peer.command.end();
          return;
        }
        peer.say('TSI_OK', request.includes('#TSI_GETSTATUSLISTING') ? 'QSTAT' : this.name);
      }
    });
    this.transport = {
      name,
      open: (signal) => {
        if (this.state !== 'down') return tsi.open(signal);
        this.asked += 1;
        return Promise.reject(new TsiError('TSI_UNAVAILABLE', `${name} is down`));
      },
    };
  }
}

class Rig implements AsyncDisposable {
  nowMs = 0;
  readonly nodes = ['login1.x.org', 'login2.x.org', 'gpu1.x.org'].map((name) => new Node(name));
  readonly group: TsiGroup;

  constructor() {
    const clock = { ...systemClock, now: () => this.nowMs };
    this.group = new TsiGroup({
      name: 'cluster',
      firstPauseMs: 1_000,
      maxPauseMs: 4_000,
      clock,
      log: silentLog,
      nodes: this.nodes.map(({ name, transport }) => ({
        name,
        tsi: createTsi(transport, { clock, log: silentLog, openMs: 1_000 }),
        categories: [name.startsWith('gpu') ? 'gpu' : 'login'],
      })),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.group[Symbol.asyncDispose]();
  }

  /** Who runs the next scripts. */
  async runs(count: number): Promise<string[]> {
    const names: string[] = [];
    for (let i = 0; i < count; i += 1) names.push(await this.group.tsi.execute(alice, 'hostname'));
    return names;
  }
}

describe('several TSIs of a target system', () => {
  it('take turns', async () => {
    await using rig = new Rig();
    assert.deepEqual(await rig.runs(6), [...names(rig), ...names(rig)]);
  });

  it('stand in for one that cannot be reached, whatever the call: nothing was sent', async () => {
    await using rig = new Rig();
    const [first, second, third] = rig.nodes as [Node, Node, Node];
    first.state = 'down';
    assert.deepEqual(new Set(await rig.runs(4)), new Set([second.name, third.name]));
    assert.equal(first.asked, 1); // its circuit is open
  });

  it('stand in for one that broke under a question, not under a script', async () => {
    await using rig = new Rig();
    const [first] = rig.nodes as [Node, Node, Node];
    first.state = 'breaks';
    await assert.rejects(rig.group.tsi.execute(alice, 'once'), { code: 'TSI_UNAVAILABLE' });
    rig.nowMs += 10_000;
    for (let i = 0; i < 3; i += 1) assert.equal((await rig.group.tsi.status()).size, 0);
  });

  it('do not go on with an upload elsewhere', async () => {
    await using rig = new Rig();
    for (const node of rig.nodes) node.state = 'breaks';
    const upload = rig.group.tsi.write(alice, '/f', Readable.from(['x']));
    await assert.rejects(upload, { code: 'TSI_UNAVAILABLE' });
    assert.equal(rig.nodes.filter(({ asked }) => asked > 0).length, 1);
  });

  it('are asked again after a pause that grows, by one call', async () => {
    await using rig = new Rig();
    const [first] = rig.nodes as [Node, Node, Node];
    first.state = 'down';
    const askedAfter = async (ms: number): Promise<number> => {
      rig.nowMs += ms;
      await Promise.all(Array.from({ length: 12 }, () => rig.group.tsi.execute(alice, 'x')));
      return first.asked;
    };
    assert.equal(await askedAfter(0), 4); // a third of the calls that were made at once
    first.asked = 0;
    assert.equal(await askedAfter(1), 0);
    rig.nowMs += 1_000;
    assert.equal(await askedAfter(0), 1);
    assert.equal(await askedAfter(1_999), 1);
    first.state = 'up';
    await askedAfter(1);
    assert.ok((await rig.runs(3)).includes(first.name));
  });

  it('say why when none answers, at once', async () => {
    await using rig = new Rig();
    for (const node of rig.nodes) node.state = 'down';
    const refused = { code: 'TSI_UNAVAILABLE', message: /login1\.x\.org is down/ };
    await assert.rejects(rig.group.tsi.status(), { code: 'TSI_UNAVAILABLE' });
    await assert.rejects(rig.group.tsi.status(), refused);
    assert.deepEqual(
      rig.nodes.map(({ asked }) => asked),
      [1, 1, 1],
    );
  });

  it('are chosen by a wish, and stayed with', async () => {
    await using rig = new Rig();
    const { group } = rig;
    const chosen = group.choose('x:gpu');
    assert.equal(chosen, 'gpu1.x.org');
    for (let i = 0; i < 3; i += 1)
      assert.equal(await group.on(chosen).execute(alice, 'x'), 'gpu1.x.org');
    assert.match(group.choose('login*'), /^login/);
    assert.equal(group.choose('LOGIN2'), 'login2.x.org');
    const refused = { code: 'BAD_REQUEST', message: /login3.*login1\.x\.org, login2/ };
    assert.throws(() => group.choose('login3'), refused);
    assert.throws(() => group.on('login3'), { code: 'BAD_REQUEST' });
  });

  it('leave a call alone that wants a node which does not answer', async () => {
    await using rig = new Rig();
    rig.nodes[2]!.state = 'down';
    const gpu = rig.group.on('gpu1.x.org');
    await assert.rejects(gpu.execute(alice, 'x'), { code: 'TSI_UNAVAILABLE' });
    assert.throws(() => rig.group.choose('gpu1'), { code: 'TSI_UNAVAILABLE' });
    assert.match(rig.group.choose(), /^login/);
  });

  it('are chosen again when their pause is over, and then not kept from being called', async () => {
    await using rig = new Rig();
    const gpu = rig.nodes[2]!;
    gpu.state = 'down';
    await assert.rejects(rig.group.on(gpu.name).execute(alice, 'x'), { code: 'TSI_UNAVAILABLE' });
    gpu.state = 'up';
    rig.nowMs += 1_000;
    assert.equal(rig.group.choose('gpu1'), gpu.name);
    assert.equal(await rig.group.on(gpu.name).execute(alice, 'x'), gpu.name);
  });
});

describe('names of nodes', () => {
  const node = { name: 'Login1.cluster.org', categories: ['big mem', 'gpu'] };
  const cases: readonly (readonly [string, boolean])[] = [
    ['login1.cluster.org', true],
    ['login1', true],
    ['login', false],
    ['login1.', false],
    ['login?.*', true],
    ['*.org', true],
    ['*', true],
    ['login?', false],
    ['l*n1*g', true],
    ['l*n2*g', false],
    ['login1xcluster.org', false],
    ['any:gpu', true],
    [':big*', true],
    ['gpu:login1', false],
    ['', false],
    [`${'*a'.repeat(5_000)}b`, false],
  ];
  for (const [wish, fits] of cases)
    it(`${JSON.stringify(wish.slice(0, 20))} ${fits ? 'means' : 'does not mean'} it`, () =>
      assert.equal(matchesNode(node, wish), fits));
});

function names({ nodes }: Rig): string[] {
  return nodes.map(({ name }) => name);
}
