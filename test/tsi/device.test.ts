import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { AgentLink } from '#xnjs/tsi/agent-link.js';
import { createTsi } from '#xnjs/tsi/tsi-client.js';
import { alice, dialUnix, nobodyId, scratch, startAgent, until } from './agent-process.js';

/**
 * A character device whose other end is a socket for one host at a time, as a virtio port is: when the
 * host leaves, the device hangs up.
 */
const bridge = `
import os, pty, select, socket, sys, tty
path, device, garbage = sys.argv[1:4]
listener = socket.socket(socket.AF_UNIX); listener.bind(path); listener.listen(1)
while True:
    master, slave = pty.openpty(); tty.setraw(slave)
    os.symlink(os.ttyname(slave), device + '.new'); os.rename(device + '.new', device)
    host, _ = listener.accept()
    os.write(master, garbage.encode())
    while True:
        ready, _, _ = select.select([host, master], [], [])
        try:
            if host in ready:
                data = host.recv(4096)
                if not data: break
                while data: data = data[os.write(master, data):]
            if master in ready: host.sendall(os.read(master, 65536))
        except OSError: break
    host.close(); os.close(master); os.close(slave)
`;
const python = spawnSync('python3', ['--version']).status === 0;

describe('a link over a character device', { skip: python ? false : 'needs python3' }, () => {
  it('carries commands and files, whatever lay in the device before, and comes back when the host does', async () => {
    await using scope = new Scope();
    const dir = scratch(scope, nobodyId);
    const [socket, device] = [join(dir, 'host.sock'), join(dir, 'port')];
    const child = spawn('python3', ['-c', bridge, socket, device, 'left over\n']);
    scope.defer(() => child.kill('SIGKILL'));
    await until('the device is there', () => existsSync(device) && existsSync(socket));
    await startAgent(scope, { properties: [`tsi.link=${device}`], dir });
    const dialed: { destroy(): unknown }[] = [];
    const link = scope.use(
      new AgentLink({
        name: 'device',
        dial: async () => {
          const connection = await dialUnix(socket);
          dialed.push(connection);
          return connection;
        },
        heartbeatMs: 1_000,
        clock: systemClock,
        log: silentLog,
      }),
    );
    let connections = 0;
    link.onChange((state) => (connections += Number(state === 'up')));
    const tsi = scope.use(createTsi(link.transport(), { clock: systemClock, log: silentLog }));
    for (let round = 0; round < 3; round += 1) {
      // not merely `up`: the loss of the former connection may not have been noticed yet
      await until('the link is up again', () => connections > round);
      const content = Buffer.alloc(300_000, `${round}`);
      const file = join(dir, 'file');
      await tsi.write(alice, file, Readable.from([content]));
      assert.ok(content.equals(await buffer(tsi.read(alice, file))));
      const endless = new Readable({ read: () => endless.push(Buffer.alloc(65_536)) });
      const lost = assert.rejects(tsi.write(alice, file, endless), { code: 'TSI_UNAVAILABLE' });
      await until('a part is written', async () => {
        const [written] = await tsi.list(alice, file, 'A');
        return written?.sizeBytes !== content.length;
      });
      dialed.at(-1)?.destroy();
      await lost;
    }
  });

  it('ends the agent with 0 when the host asks for it', async () => {
    await using scope = new Scope();
    const dir = scratch(scope, nobodyId);
    const [socket, device] = [join(dir, 'host.sock'), join(dir, 'port')];
    const child = spawn('python3', ['-c', bridge, socket, device, '']);
    scope.defer(() => child.kill('SIGKILL'));
    await until('the device is there', () => existsSync(device) && existsSync(socket));
    const agent = await startAgent(scope, { properties: [`tsi.link=${device}`], dir });
    const options = { name: 'device', heartbeatMs: 1_000, clock: systemClock, log: silentLog };
    const link = scope.use(new AgentLink({ ...options, dial: () => dialUnix(socket) }));
    await until('the link is up', () => link.state === 'up');
    await link.shutdown();
    await until('the agent has ended', () => agent.child.exitCode !== null);
    assert.equal(agent.child.exitCode, 0);
  });
});
