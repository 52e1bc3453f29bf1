import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, createReadStream, openSync, writeSync } from 'node:fs';
import { chmod, chown, open, rm, stat } from 'node:fs/promises';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import { join } from 'node:path';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { piecesOf } from '#kernel/net/lending-stream.js';
import { Scope } from '#kernel/scope.js';
import { CallbackListener, callbackTransport } from '#xnjs/tsi/callback-transport.js';
import { createTsi, type TsiClient } from '#xnjs/tsi/tsi-client.js';
import { alice, isRoot, linkTo, nobodyId, scratch, startAgent } from '../tsi/agent-process.js';
import { cpuMs } from './cpu.js';
import { print, printMachine, quantile } from './report.js';

/**
 * Files through TSI client and agent, each a process, beside `cat file | socket | cat > file` over the
 * same kind of socket in the same run. Files are in memory already, and are written to the same disk.
 * Run from the sources by tsx; the agent is the bundle that goes into images.
 *
 * usage: npm run bench:transfer -- [MB …]
 */
const sizes = process.argv.length > 2 ? process.argv.slice(2).map(Number) : [500, 2_000];
const rounds = 3;
const goal = 0.6;
/** What our own end of a file reads at a time, and writes, which is as much as `cat` does. */
const readBytes = 1024 * 1024;
const writtenBytes = 128 * 1024;

type Way = (from: string, to: string) => Promise<unknown>;
type Kind = 'unix' | 'tcp';

/** A file of other bytes than zeros, in the page cache. */
async function makeFile(path: string, sizeMb: number): Promise<void> {
  const file = await open(path, 'w', 0o644);
  for (let mb = 0; mb < sizeMb; mb++) await file.write(Buffer.alloc(1_000_000, mb & 0xff));
  await file.close();
}

async function socketPair(kind: Kind, directory: string): Promise<[Socket, Socket]> {
  const server = createServer({ pauseOnConnect: true });
  server.listen(kind === 'unix' ? { path: join(directory, 'cat.sock') } : { port: 0 });
  await once(server, 'listening');
  const accepted = once(server, 'connection');
  const near =
    kind === 'unix'
      ? connect(join(directory, 'cat.sock'))
      : connect((server.address() as AddressInfo).port);
  await once(near, 'connect');
  const [far] = (await accepted) as [Socket];
  server.close();
  return [near, far];
}

/** What the machine can do: two processes in C, the kernel and a socket between them. */
function catOver(kind: Kind, directory: string): Way {
  return async (from, to) => {
    const [near, far] = await socketPair(kind, directory);
    const target = await open(to, 'w', 0o600);
    const reader = spawn('cat', { stdio: [far, target.fd, 'inherit'] });
    const writer = spawn('cat', [from], { stdio: ['ignore', near, 'inherit'] });
    const ended = Promise.all([once(reader, 'exit'), once(writer, 'exit')]);
    near.destroy();
    far.destroy();
    await ended;
    await target.close();
  };
}

const download =
  (tsi: TsiClient): Way =>
  async (from, to) => {
    const target = openSync(to, 'w', 0o600);
    for await (const piece of piecesOf(tsi.read(alice, from), true))
      for (let at = 0; at < piece.length; at += writtenBytes)
        writeSync(target, piece, at, Math.min(writtenBytes, piece.length - at));
    closeSync(target);
  };
const upload =
  (tsi: TsiClient): Way =>
  (from, to) =>
    tsi.write(alice, to, createReadStream(from, { highWaterMark: readBytes }));

/** CPU time for each MB: ours, and that of the other end. */
type Speed = { readonly mbPerSecond: number; readonly engineMs: number; readonly agentMs: number };

/**
 * Memory that has been free for some seconds may be the host's again, and cost six times as much to write to: the file
 * is written, and removed, once before.
 */
async function speed(
  way: Way,
  { from, to, sizeMb, agentPid }: { from: string; to: string; sizeMb: number; agentPid: number },
): Promise<Speed> {
  await makeFile(to, sizeMb);
  await rm(to);
  const before = {
    startedMs: performance.now(),
    engine: cpuMs(process.pid),
    agent: cpuMs(agentPid),
  };
  await way(from, to);
  const seconds = (performance.now() - before.startedMs) / 1_000;
  const engineMs = (cpuMs(process.pid) - before.engine) / sizeMb;
  const agentMs = (cpuMs(agentPid) - before.agent) / sizeMb;
  const { size } = await stat(to);
  if (size !== sizeMb * 1_000_000) throw new Error(`${size} bytes arrived of ${sizeMb} MB`);
  await rm(to);
  return { mbPerSecond: sizeMb / seconds, engineMs, agentMs };
}

async function compare(
  kind: Kind,
  tsi: TsiClient,
  agentPid: number,
  directory: string,
): Promise<void> {
  const from = join(directory, 'from');
  const to = join(directory, 'to');
  const ways = { cat: catOver(kind, directory), download: download(tsi), upload: upload(tsi) };
  for (const sizeMb of sizes) {
    await makeFile(from, sizeMb);
    const found = { cat: [] as Speed[], download: [] as Speed[], upload: [] as Speed[] };
    const task = { from, to, sizeMb, agentPid };
    // in turns, so that what else the machine does falls on all
    for (let round = 0; round < rounds; round++)
      for (const way of ['cat', 'download', 'upload'] as const)
        found[way].push(await speed(ways[way], task));
    const median = (way: keyof typeof found, key: keyof Speed): number =>
      quantile(
        found[way].map((each) => each[key]),
        0.5,
      );
    const cat = median('cat', 'mbPerSecond');
    for (const way of ['download', 'upload'] as const) {
      const mbPerSecond = median(way, 'mbPerSecond');
      const ratio = mbPerSecond / cat;
      const [engine, agent] = [median(way, 'engineMs'), median(way, 'agentMs')];
      print({
        what: `${way} of ${sizeMb} MB, ${kind === 'unix' ? 'agent link' : 'TCP channels'}`,
        value: `${mbPerSecond.toFixed(0)} MB/s, ${ratio.toFixed(2)} of cat`,
        goal: `>= ${goal} of cat`,
        met: ratio >= goal,
        baseline: `cat: ${cat.toFixed(0)} MB/s; CPU per MB: engine ${engine.toFixed(2)}, agent ${agent.toFixed(2)}, cat ${median('cat', 'engineMs').toFixed(2)} ms`,
      });
    }
  }
}

printMachine();
await using scope = new Scope();
const directory = scratch(scope);
await chmod(directory, 0o755);
if (isRoot) await chown(directory, nobodyId, nobodyId);
const options = { clock: systemClock, log: silentLog };

const linked = await startAgent(scope);
const link = await linkTo(scope, linked.socket, { dialsMany: true });
await compare(
  'unix',
  scope.use(createTsi(link.transport(), options)),
  linked.child.pid ?? 0,
  directory,
);

const listener = scope.use(await CallbackListener.open({ port: 0, log: silentLog }));
const classic = await startAgent(scope, {
  properties: ['tsi.my_port=0', 'tsi.unicorex_machine=localhost'],
});
const port = await classic.port();
const channels = callbackTransport({ host: '127.0.0.1', port, listener });
await compare('tcp', scope.use(createTsi(channels, options)), classic.child.pid ?? 0, directory);
