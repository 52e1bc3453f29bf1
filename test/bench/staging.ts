import { join } from 'node:path';
import { rmSync } from 'node:fs';
import { Scope } from '#kernel/scope.js';
import { Agent, scratch } from '../xnjs/job/rig.js';
import { measure, startLarge } from '../xnjs/staging/large.js';

/**
 * Brings one large file from a web server to a target system and back: how much memory the transferring
 * process takes, and how fast it is compared with `curl -o` and `curl -T` of the same file.
 *
 * usage: npm run bench:staging -- [GiB]
 */
const gibibytes = Number(process.argv[2] ?? 5);
const sizeMiB = gibibytes * 1024;

await using scope = new Scope();
const directory = scratch(scope);
const agent = new Agent(directory);
scope.defer(() => agent.kill());
await agent.start();
const server = await startLarge(scope, sizeMiB * 1024 * 1024);

/** In a process of its own, since this one is the server. */
async function curl(...args: string[]): Promise<number> {
  const { spawn } = await import('node:child_process');
  const started = performance.now();
  const child = spawn('curl', ['--silent', '--fail', ...args], { stdio: 'ignore' });
  const code = await new Promise((resolve) => child.once('exit', resolve));
  if (code !== 0) throw new Error(`curl ends with ${String(code)}`);
  return (performance.now() - started) / 1_000;
}

const report = (what: string, seconds: number, bare: number, peakMiB: number): void =>
  console.log(
    `${what}: ${gibibytes} GiB in ${seconds.toFixed(1)} s, ${(sizeMiB / seconds).toFixed(0)} MiB/s ` +
      `(curl ${(sizeMiB / bare).toFixed(0)} MiB/s), peak memory ${peakMiB} MiB`,
  );

const file = join(directory, 'by-curl');
const down = await curl('-o', file, `${server.url}/large`);
const description = {
  Imports: [{ From: `${server.url}/large`, To: 'large' }],
  Exports: [{ From: 'large', To: `${server.url}/up` }],
};
const received = await measure(directory, agent.socket, description);
report('import', received.seconds, down, received.peakMiB);
const up = await curl('-T', file, `${server.url}/up`);
rmSync(file);
const sent = await measure(directory, agent.socket, {}, 'out', received.jobId);
report('export', sent.seconds, up, sent.peakMiB);
