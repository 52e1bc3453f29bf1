import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { bundleAgent } from '#cli/image/agent.js';

/**
 * What the agent costs a guest beyond Node itself: the time from the start of its process until it takes a
 * connection, and its resident memory then, each beside that of `node -e ''` in the same run. Rounds
 * alternate, so that both see the same machine; medians are printed.
 *
 * usage: npm run bench:agent -- [rounds]
 */
const rounds = Number(process.argv[2] ?? 15);
const goal = { ownMs: 1_000 };

type Round = { readonly ms: number; readonly rssMiB: number };

const dir = await mkdtemp(join(tmpdir(), 'vsite-bench-agent-'));
const bundle = join(dir, 'agent.cjs');
const properties = join(dir, 'tsi.properties');
const socket = join(dir, 'agent.sock');

async function rssOf(pid: number | undefined): Promise<number> {
  const status = await readFile(`/proc/${pid ?? 0}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1_024;
}

/** Until Node has run an empty program; its memory is looked at when it says so. */
async function timeNode(): Promise<Round> {
  const started = performance.now();
  const child = spawn(process.execPath, ['-e', ''], { stdio: 'ignore' });
  await once(child, 'exit');
  const ms = performance.now() - started;
  const idle = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1e9); console.log()']);
  await once(idle.stdout, 'data');
  const rssMiB = await rssOf(idle.pid);
  idle.kill('SIGKILL');
  return { ms, rssMiB };
}

async function timeAgent(): Promise<Round> {
  await rm(socket, { force: true });
  const started = performance.now();
  const child = spawn(process.execPath, [bundle, properties], { stdio: 'ignore' });
  const ended = once(child, 'exit').then(() => {
    throw new Error('the agent has ended');
  });
  await Promise.race([listening(), ended]);
  const ms = performance.now() - started;
  const rssMiB = await rssOf(child.pid);
  child.kill('SIGKILL');
  await ended.catch(() => undefined);
  return { ms, rssMiB };
}

async function listening(): Promise<void> {
  for (;;) {
    const connection = connect(socket);
    try {
      await once(connection, 'connect');
      return;
    } catch {
      await sleep(1);
    } finally {
      connection.destroy();
    }
  }
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
}

try {
  const content = await bundleAgent();
  await writeFile(bundle, content);
  const lines = [`tsi.link=unix:${socket}`, `tsi.state_dir=${join(dir, 'state')}`];
  await writeFile(properties, lines.join('\n'));
  const bare: Round[] = [];
  const agent: Round[] = [];
  for (let round = 0; round < rounds; round += 1) {
    bare.push(await timeNode());
    agent.push(await timeAgent());
  }
  const of = (found: readonly Round[], key: keyof Round): number =>
    median(found.map((round) => round[key]));
  const ownMs = of(agent, 'ms') - of(bare, 'ms');
  const ownMiB = of(agent, 'rssMiB') - of(bare, 'rssMiB');
  const ratio = (key: keyof Round): string => (of(agent, key) / of(bare, key)).toFixed(2);
  console.log(`${cpus().length} CPUs, load ${loadavg()[0]?.toFixed(1)}, Node ${process.version}`);
  console.log(`bundle: ${(content.length / 1_024).toFixed(0)} KiB, ${rounds} rounds`);
  console.log(
    `start: agent ${of(agent, 'ms').toFixed(0)} ms, bare Node ${of(bare, 'ms').toFixed(0)} ms, ` +
      `ratio ${ratio('ms')}, own ${ownMs.toFixed(0)} ms (goal: under ${goal.ownMs})`,
  );
  console.log(
    `memory: agent ${of(agent, 'rssMiB').toFixed(1)} MiB, bare Node ` +
      `${of(bare, 'rssMiB').toFixed(1)} MiB, ratio ${ratio('rssMiB')}, own ${ownMiB.toFixed(1)} MiB`,
  );
  if (ownMs >= goal.ownMs) process.exitCode = 1;
} finally {
  await rm(dir, { recursive: true, force: true });
}
