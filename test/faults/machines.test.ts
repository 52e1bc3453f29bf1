import assert from 'node:assert/strict';
import { execFileSync, fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http2';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { aDaemon, withoutLibvirtd } from '../kernel/libvirt/daemon.js';
import { points } from './machine-points.js';

describe('a server that dies at each step of a machine', { skip: withoutLibvirtd }, () => {
  let daemon: Awaited<ReturnType<typeof aDaemon>>;
  let directory: string;
  /** A fake: answers as the agent of every machine. */
  const agents = createServer((_, response) => {
    response.statusCode = 404;
    response.end();
  });
  before(async () => {
    daemon = await aDaemon();
    directory = join(daemon.stateDir, 's');
    mkdirSync(directory);
    agents.listen(join(directory, 'agents.sock'));
    await once(agents, 'listening');
  });
  after(async () => {
    agents.close();
    await daemon[Symbol.asyncDispose]();
  });

  /** A machine that does nothing. */
  const disk = (): string => {
    const [raw, qcow2] = [join(daemon.stateDir, 'raw'), join(daemon.stateDir, 'disk.qcow2')];
    const sector = Buffer.alloc(1_048_576);
    sector.set([0xfa, 0xf4, 0xeb, 0xfd]); // interrupts off, halt
    sector.set([0x55, 0xaa], 510);
    writeFileSync(raw, sector);
    execFileSync('qemu-img', ['convert', '-O', 'qcow2', raw, qcow2]);
    return qcow2;
  };

  const domains = async (): Promise<string[]> => {
    await using client = await daemon.connect('qemu');
    const listing = { need_results: 1, flags: 0 };
    return (await client.call('connect_list_all_domains', listing)).domains.map(({ name }) => name);
  };

  for (const [hosts, which, where] of [
    ['one', 'lives', 'on one host'],
    ['two', 'lives', 'with another that could take what is parked'],
    ['one', 'snapshots', 'where it is kept and put back'],
  ] as const)
    it(
      `is followed by one that finishes what was begun; nothing is left, ${where}`,
      { timeout: 240_000 },
      async () => {
        const args = [directory, daemon.options('qemu').uri, disk()];
        const program = new URL('./machines-server.ts', import.meta.url).pathname;
        const execArgv = ['--conditions=development', '--import', 'tsx'];
        const start = (mode: string): ChildProcess =>
          fork(program, [...args, mode, hosts, which], { execArgv });

        const first = start('hold');
        assert.equal(await heard(first), 'held');
        first.kill('SIGKILL');
        await once(first, 'exit');

        const second = start('settle');
        assert.equal(await heard(second), `settled ${points[which].length}`);
        await once(second, 'exit');
        assert.deepEqual(await domains(), []);
        assert.deepEqual(readdirSync(join(directory, 'vms')), []);
      },
    );
});

/** The first thing that a process says. @throws when it ends without a word */
async function heard(child: ChildProcess): Promise<unknown> {
  const ended = once(child, 'exit').then(([code]) => `it ended with ${String(code)}`);
  const said = once(child, 'message').then(([message]) => message as unknown);
  return await Promise.race([said, ended]);
}
