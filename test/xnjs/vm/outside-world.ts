// Another host, for the tests: a network namespace of its own, in which what comes is noted.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Scope } from '#kernel/scope.js';

/** Listens at these ports for TCP and UDP, and says on its output what has come. */
const program = `
const net = require('net'), dgram = require('dgram');
net.createServer((s) => s.destroy()).listen(7000, () => {
  const udp = dgram.createSocket('udp4');
  udp.on('message', (m) => console.log(m.toString()));
  udp.bind(7000, () => console.log('ready'));
});
setInterval(() => undefined, 1e9);
`;

/** As the machines' host sees it, and by which its bridge `opbr0` is connected to it. */
export const world = {
  address: '203.0.113.2',
  bridged: '192.0.2.2',
  /** Fixed, as the addresses are: nobody else is in that namespace. */
  port: 7000,
  /** Of this host, there. */
  host: '203.0.113.1',
  hostOnBridge: '192.0.2.1',
} as const;

export type World = {
  /** What UDP has brought, in order. */
  readonly heard: readonly string[];
};

/**
 * Only in a network namespace that nobody else uses.
 * @param host a process in that of the machines' host; absent: that is ours
 */
export async function openWorld(scope: Scope, host?: number): Promise<World> {
  const node = spawn('unshare', ['--net', process.execPath, '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  scope.defer(() => end(node));
  const heard: string[] = [];
  const lines = createInterface({ input: node.stdout });
  await once(lines, 'line');
  lines.on('line', (line) => heard.push(line));
  const pid = String(node.pid);
  const inside = (command: string): void => execute(`nsenter -t ${pid} -n ${command}`);
  const enter = host === undefined ? '' : `nsenter -t ${host} -n `;
  const run = (command: string): void => execute(`${enter}${command}`);
  run('ip link add world0 type veth peer name w0');
  run('ip link add world1 type veth peer name w1');
  run(`ip link set w0 netns ${pid}`);
  run(`ip link set w1 netns ${pid}`);
  run('ip link add opbr0 type bridge');
  run('ip link set world1 master opbr0');
  run(`ip addr add ${world.host}/24 dev world0`);
  run(`ip addr add ${world.hostOnBridge}/24 dev opbr0`);
  for (const name of ['world0', 'world1', 'opbr0']) run(`ip link set ${name} up`);
  for (const [name, address] of [
    ['w0', world.address],
    ['w1', world.bridged],
  ] as const) {
    inside(`ip addr add ${address}/24 dev ${name}`);
    inside(`ip link set ${name} up`);
  }
  const range = 'dhcp-range=192.0.2.100,192.0.2.200,1h';
  const own = ['--conf-file=/dev/null', '--port=0', '--interface=w1', '--no-ping'];
  const files = ['--leasefile-ro', '--pid-file='];
  const args = ['-t', pid, '-n', 'dnsmasq', '-k', ...own, ...files, `--${range}`];
  const dhcp = spawn('nsenter', args, { stdio: 'ignore' });
  scope.defer(() => end(dhcp));
  return { heard };
}

function execute(command: string): void {
  const [program = '', ...args] = command.split(' ');
  execFileSync(program, args, { stdio: 'pipe' });
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}
