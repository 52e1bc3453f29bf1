import assert from 'node:assert/strict';
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { nodeFlags, program } from '../program.js';
import { aDaemon, withoutLibvirtd } from '../kernel/libvirt/daemon.js';
import { bootDisk, bootKernel } from './boot-sectors.js';
import { startAgents } from './machine-rig.js';
import { points } from './machine-points.js';

describe('a server that dies at each step of a machine', { skip: withoutLibvirtd }, () => {
  let daemon: Awaited<ReturnType<typeof aDaemon>>;
  let directory: string;
  const scope = new Scope();
  before(async () => {
    daemon = await aDaemon();
    directory = join(daemon.stateDir, 's');
    mkdirSync(directory);
    await startAgents(scope, join(directory, 'agents.sock'));
  });
  after(async () => {
    await scope.close();
    await daemon[Symbol.asyncDispose]();
  });

  const domains = async (): Promise<string[]> => {
    await using client = await daemon.connect('qemu');
    const listing = { need_results: 1, flags: 0 };
    return (await client.call('connect_list_all_domains', listing)).domains.map(({ name }) => name);
  };

  /** As if their host had lost its power. */
  async function endMachines(): Promise<void> {
    await using client = await daemon.connect('qemu');
    const listing = { need_results: 1, flags: 0 };
    const { domains: all } = await client.call('connect_list_all_domains', listing);
    for (const dom of all)
      if (dom.id !== -1) await client.call('domain_destroy_flags', { dom, flags: 0 });
  }

  const pool = (): string => join(daemon.stateDir, 'pool');
  async function definePool(): Promise<void> {
    mkdirSync(pool());
    await using client = await daemon.connect('qemu');
    const xml = `<pool type='dir'><name>pool</name><target><path>${pool()}</path></target></pool>`;
    await client.call('storage_pool_create_xml', { xml, flags: 0 });
  }

  for (const [hosts, which, where] of [
    ['one', 'lives', 'on one host'],
    ['two', 'lives', 'with another that could take what is parked'],
    ['one', 'snapshots', 'where it is kept and put back'],
    ['pool', 'pool', 'where it is kept and put back on a host with storage of its own'],
    ['two', 'ends', 'and takes no memory for that of a machine which has run since'],
    ['one', 'endsOfKept', 'and starts none from a snapshot which has run since'],
  ] as const)
    it(
      `is followed by one that finishes what was begun; nothing is left, ${where}`,
      { timeout: 240_000 },
      async () => {
        if (hosts === 'pool') await definePool();
        const disk = bootDisk(join(daemon.stateDir, 'disk.qcow2'), 'nothing');
        const args = [directory, daemon.options('qemu').uri, disk];
        const start = (mode: string): ChildProcess =>
          forked('test/faults/machines-server.ts', [...args, mode, hosts, which]);

        const first = start('hold');
        assert.equal(await heard(first), 'held');
        first.kill('SIGKILL');
        await once(first, 'exit');
        if (which.startsWith('ends')) await endMachines();

        const second = start('settle');
        const systems = points[which].filter((point) => !point.startsWith('volume'));
        assert.equal(await heard(second), `settled ${systems.length}`);
        await once(second, 'exit');
        assert.deepEqual(await domains(), []);
        // of machines elsewhere there never was any
        if (hosts !== 'pool') assert.deepEqual(readdirSync(join(directory, 'vms')), []);
        const isMachines = (name: string): boolean => name.includes('-vm-');
        if (hosts === 'pool') assert.deepEqual(readdirSync(pool()).filter(isMachines), []);
        if (which === 'lives') assert.deepEqual(readdirSync(join(directory, 'volumes')), []);
      },
    );

  it(
    'is followed by one that finishes clones, claims and spares; nothing is left',
    { timeout: 400_000 },
    async () => {
      const own = join(daemon.stateDir, 't');
      mkdirSync(own);
      symlinkSync(join(directory, 'agents.sock'), join(own, 'agents.sock'));
      bootKernel(join(own, 'kernel'));
      const phases = { clones: 5, claims: 4, 'spare started': 1, end: 0 };
      for (const [phase, held] of Object.entries(phases)) {
        const server = forked('test/faults/tiers-server.ts', [
          own,
          daemon.options('qemu').uri,
          phase,
        ]);
        assert.equal(await heard(server), held, phase);
        if (phase !== 'end') server.kill('SIGKILL');
        await once(server, 'exit');
      }
      assert.deepEqual(await domains(), []);
    },
  );
});

function forked(file: `${string}.ts`, args: readonly string[]): ChildProcess {
  return fork(program(file), args, { execArgv: [...nodeFlags] });
}

/** The first thing that a process says. @throws when it ends without a word */
async function heard(child: ChildProcess): Promise<unknown> {
  const ended = once(child, 'exit').then(([code]) => `it ended with ${String(code)}`);
  const said = once(child, 'message').then(([message]) => message as unknown);
  return await Promise.race([said, ended]);
}
