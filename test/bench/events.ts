import { jobStatus } from '#xnjs/job/status.js';
import { chmodSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { Scope } from '#kernel/scope.js';
import { silentLog } from '#kernel/log.js';
import { followEvents, serveEvents } from '../gateway/event-site.js';
import { startRig } from '../gateway/rig.js';
import { startAgent } from '../tsi/agent-process.js';
import { scratch, startEngine, until } from '../xnjs/job/rig.js';
import { trivialJob } from './engine-rig.js';
import { inFlight, print, printMachine, quantile } from './report.js';

/**
 * From the commit of a job's state to its event at a client: engine with our agent, SQLite on disk, stream of events,
 * gateway with TLS. All but the agent in one process, so that one clock times both ends; what engine, gateway and client take
 * from each other counts.
 *
 * usage: npm run bench:events -- [jobs]
 */
const jobs = Number(process.argv[2] ?? 120);

printMachine();
await using scope = new Scope();
const directory = scratch(scope);
const dir = join(directory, 'agent');
mkdirSync(dir);
chmodSync(dir, 0o755);
const agent = await startAgent(scope, { dir });
const rig = await startEngine(scope, directory, agent.socket, { dialsMany: true });
const committed = new Map<string, number>();
rig.engine.onChange((job) => {
  const key = `${job.id} ${jobStatus(job)}`;
  if (!committed.has(key)) committed.set(key, performance.now());
});
const site = await serveEvents(scope, rig);
const gateway = scope.use(await startRig(site, { log: silentLog }));

for (const width of [1, 8]) {
  const times: number[] = [];
  const over = new Set<string>();
  const stream = await followEvents(gateway, ({ job, status }) => {
    const since = committed.get(`${job} ${status}`);
    if (since === undefined) throw new Error(`an event of what was not committed: ${status}`);
    times.push(performance.now() - since);
    if (status === 'SUCCESSFUL') over.add(job);
    if (status === 'FAILED') throw new Error('a job failed');
  });
  const ids: string[] = [];
  await inFlight(jobs, width, async () => {
    const id = await rig.submit(trivialJob);
    ids.push(id);
    await rig.finished(id);
  });
  await until('all events are there', () => ids.every((id) => over.has(id)));
  stream.leave();
  const p99 = quantile(times, 0.99);
  print({
    what: `state committed to event at client, ${width} at once, p50/p99`,
    value: `${quantile(times, 0.5).toFixed(1)} / ${p99.toFixed(1)} ms`,
    goal: 'p99 < 50 ms',
    met: p99 < 50,
    baseline: `${times.length} events of ${jobs} jobs`,
  });
}
