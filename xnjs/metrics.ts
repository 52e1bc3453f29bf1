import { longBuckets, type Metrics } from '#kernel/metrics.js';
import type { JobEngine } from './job/engine.js';
import type { Job } from './job/job.js';
import type { Hosts } from './vm/hosts/hosts.js';
import type { MachineObserver } from './vm/machine-observer.js';
import { isAlive } from './vm/views.js';
import type { TargetSystem } from './vm/target-system.js';
import type { TargetSystems } from './vm/target-systems.js';

export function observeMachines(metrics: Metrics): MachineObserver {
  const reconcile = metrics.histogram({
    name: 'reconcile_pass_duration_seconds',
    help: 'A comparison of hypervisors and records, and of all records with their machines',
    buckets: longBuckets,
  });
  const look = metrics.histogram({
    name: 'machine_look_duration_seconds',
    help: 'Asking a hypervisor how all its machines are, by driver',
    labels: ['driver'],
    buckets: longBuckets,
  });
  const fallBacks = metrics.counter({
    name: 'start_fall_backs_total',
    help: 'Starts by a fast tier that ended in a boot, by tier',
    labels: ['tier'],
  });
  return {
    reconciled: (ms) => reconcile({}, ms / 1_000),
    looked: (driver, ms) => look({ driver }, ms / 1_000),
    fellBack: (tier) => fallBacks({ tier }),
  };
}

/** Bytes that have moved in transfers of jobs. */
export function countStaging(metrics: Metrics): (bytes: number) => void {
  const count = metrics.counter({
    name: 'staging_bytes_total',
    help: 'Bytes moved by imports and exports of jobs',
  });
  return (bytes) => count({}, bytes);
}

/** What is counted of target systems. @returns ends it */
export function countSystems(metrics: Metrics, systems: TargetSystems, hosts: Hosts): () => void {
  metrics.gauge(
    {
      name: 'target_systems',
      help: 'Target systems, by state, driver and start tier',
      labels: ['state', 'driver', 'tier'],
    },
    () => tally(systems.list(), ({ state, driver, start }) => ({ state, driver, tier: start?.tier ?? 'unknown' })), // prettier-ignore
  );
  metrics.gauge(
    {
      name: 'agent_links',
      help: 'Machines that there are, by what their agents do: up, down, or never answered yet',
      labels: ['state'],
    },
    () =>
      tally(systems.list().filter(isAlive), ({ id, views }) => ({
        state: systems.answers(id) ? 'up' : views?.agent ? 'down' : 'never',
      })),
  );
  metrics.gauge(
    {
      name: 'orphan_domains',
      help: 'Domains, and files of machines, of ours that belong to nobody and are left alone',
    },
    () => [{ value: systems.orphans.length }],
  );
  metrics.gauge(
    {
      name: 'hypervisor_up',
      help: '1: the hypervisor answers, by host of the configuration and driver',
      labels: ['host', 'driver'],
    },
    () =>
      hosts.all.flatMap(({ name: host, drivers }) =>
        drivers.map((driver) => ({
          labels: { host, driver },
          value: hosts.isUp({ host, driver }) ? 1 : 0,
        })),
      ),
  );
  return timeStarts(metrics, systems);
}

function timeStarts(metrics: Metrics, systems: TargetSystems): () => void {
  const starts = metrics.histogram({
    name: 'target_system_start_duration_seconds',
    help: 'From the request of a target system until it was ready, by start tier and driver',
    labels: ['tier', 'driver'],
    buckets: longBuckets,
  });
  const phases = metrics.histogram({
    name: 'target_system_boot_mark_seconds',
    help: 'When a start reached each of its marks, after the request; not by image, of which there may be many',
    labels: ['mark', 'driver'],
    buckets: longBuckets,
  });
  return systems.subscribe((event) => {
    if (event.type !== 'ready' || !event.isStart) return;
    const { boot, driver, start } = systems.get(event.targetId);
    if (boot.readyMs === undefined) return;
    starts({ tier: start?.tier ?? 'unknown', driver }, boot.readyMs / 1_000);
    for (const [mark, ms] of Object.entries(boot))
      phases({ mark: mark.replace(/Ms$/, ''), driver }, ms / 1_000);
  });
}

/** @returns notes that a job was taken */
export function countSubmissions(metrics: Metrics): () => void {
  return metrics.counter({ name: 'jobs_submitted_total', help: 'Jobs taken' });
}

/** What is counted of jobs. @returns ends it */
export function countJobs(metrics: Metrics, jobs: JobEngine): () => void {
  const entered = metrics.counter({
    name: 'job_states_entered_total',
    help: 'Jobs that came into a state',
    labels: ['state'],
  });
  metrics.gauge(
    { name: 'jobs', help: 'Jobs stored, unfinished and finished', labels: ['state'] },
    async () => {
      const users = await jobs.usage();
      const sum = (key: 'total' | 'unfinished') => users.reduce((all, user) => all + user[key], 0);
      return [
        { labels: { state: 'unfinished' }, value: sum('unfinished') },
        { labels: { state: 'finished' }, value: sum('total') - sum('unfinished') },
      ];
    },
  );
  metrics.gauge(
    {
      name: 'job_calls',
      help: 'Calls of the job engine to target systems: under way, and waiting for their turn',
      labels: ['state'],
    },
    () => Object.entries(jobs.calls).map(([state, value]) => ({ labels: { state }, value })),
  );
  const states = new Map<string, Job['state']>();
  return jobs.onChange(({ id, state }) => {
    const before = states.get(id);
    if (before === state) return;
    entered({ state });
    if (state === 'DONE') states.delete(id);
    else states.set(id, state);
  });
}

function tally<L extends string>(
  systems: readonly TargetSystem[],
  labelsOf: (system: TargetSystem) => Record<L, string>,
): { labels: Record<L, string>; value: number }[] {
  const counts = new Map<string, { labels: Record<L, string>; value: number }>();
  for (const system of systems) {
    const labels = labelsOf(system);
    let key = '';
    for (const name in labels) key += `${labels[name]} `;
    const count = counts.get(key);
    if (count) count.value += 1;
    else counts.set(key, { labels, value: 1 });
  }
  return [...counts.values()];
}
