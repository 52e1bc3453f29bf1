import assert from 'node:assert/strict';
import { chmodSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { Scope } from '#kernel/scope.js';
import { noSlurm, startSlurm, type SlurmCluster } from '../tsi/slurm-cluster.js';
import { scratch, until } from '../xnjs/job/rig.js';
import { login, startRig, type Rig } from './storages-rig.js';

const alice = 'CN=Alice,O=Grid';

describe('queues of a target system with a real Slurm', { skip: noSlurm, timeout: 120_000 }, () => {
  const scope = new Scope();
  let slurm: SlurmCluster;
  let rig: Rig;
  let siteId: string;
  /** While it is there, sinfo fails, and leaves a dot in it. */
  let broken: string;

  before(async () => {
    slurm = await startSlurm(scope);
    const directory = scratch(scope);
    broken = join(directory, 'broken');
    const sinfo = join(directory, 'sinfo');
    const script = `#!/bin/sh\nif [ -e '${broken}' ]; then printf . >>'${broken}'; exit 1; fi\nexec sinfo "$@"\n`;
    writeFileSync(sinfo, script, { mode: 0o755 });
    const sshare = join(directory, 'sshare');
    const accounts = `root||cpu=9|cpu=1\nphysics||cpu=60000|cpu=15000\nphysics|${login}||\nfree|${login}||`;
    writeFileSync(sshare, `#!/bin/sh\nprintf '%s\\n' '${accounts}'\n`, { mode: 0o755 });
    const agent = [
      `tsi.get_budget_cmd=${sshare}`,
      'tsi.bss=slurm',
      `tsi.slurm_conf=${slurm.conf}`,
      `tsi.get_partitions_cmd=${sinfo} --all --noheader --exact --format="%P %D %l %c %m"`,
    ];
    rig = await startRig(scope, { agent, queuesIntervalMs: 500 });
    siteId = await rig.makeSite(alice);
  });
  after(() => scope.close());

  async function run(description: object): Promise<Record<string, unknown>> {
    const made = await rig.as('alice')('POST', `/sites/${siteId}`, { body: description });
    assert.equal(made.status, 201, made.text);
    const path = `/jobs/${String(made.headers['location']).split('/').at(-1) ?? ''}`;
    let job: Record<string, unknown> = {};
    await until('the job is over', async () => {
      job = (await rig.as('alice')('GET', path)).body;
      return ['SUCCESSFUL', 'FAILED'].includes(String(job['status']));
    });
    return job;
  }
  const resources = async (): Promise<Record<string, Record<string, unknown>>> =>
    (await rig.as('alice')('GET', `/sites/${siteId}`)).body['resources'] as Record<
      string,
      Record<string, unknown>
    >;

  it('run a job that names none in the default queue, however soon it comes', async () => {
    const job = await run({ Executable: 'true', Resources: { CPUsPerNode: 8 } });
    assert.deepEqual([job['status'], job['statusMessage']], ['SUCCESSFUL', '']);
    assert.match(String(job['log']), /#TSI_QUEUE batch\n/);
  });

  it('are shown with what they allow', async () => {
    const { batch, small, ...others } = await resources();
    assert.deepEqual(others, {});
    const memory = `1048576-${1_000 * 1024 ** 2}`;
    const node = { Nodes: '1-1', CPUsPerNode: '1-8', TotalCPUs: '1-8', MemoryPerNode: memory };
    for (const [queue, Runtime] of [
      [batch, '1-2592000'],
      [small, '1-300'],
    ] as const)
      for (const [name, range] of Object.entries({ ...node, Runtime }))
        assert.equal(queue?.[name], range, name);
  });

  it('come with what is left of the time of a project, where the batch system limits it', async () => {
    const left = { physics: { remaining: '750', units: 'core-h', rel: '75%' } };
    const factory = '/factories/default_target_system_factory';
    for (const path of [`/sites/${siteId}`, factory])
      await until('it was asked', async () => {
        const { remainingComputeTime: told } = (await rig.as('alice')('GET', path)).body;
        return isDeepStrictEqual(told, left);
      });
    const others = await rig.as('bob')('GET', factory);
    assert.deepEqual(others.body['remainingComputeTime'], {});
  });

  it('decide what a job may ask for', async () => {
    const refused: [object, RegExp][] = [
      [{ Queue: 'gpu' }, /Resources\.Queue: there is no queue "gpu" here; offered: batch, small/],
      [{ Queue: 'small', Runtime: '6m' }, /Resources\.Runtime: 6m is outside 1-300 seconds/],
      [{ Nodes: 2 }, /Resources\.Nodes: 2 is outside 1-1/],
    ];
    for (const [Resources, reason] of refused) {
      const job = await run({ Executable: 'true', Resources });
      assert.equal(job['status'], 'FAILED');
      assert.match(String(job['statusMessage']), reason);
    }
    const job = await run({ Executable: 'true', Resources: { Queue: 'small', Runtime: '5m' } });
    assert.equal(job['status'], 'SUCCESSFUL', String(job['statusMessage']));
  });

  it('are asked for again, and a new one can be used', async () => {
    await slurm.run('scontrol', 'create', 'PartitionName=extra', 'Nodes=n1', 'MaxTime=10');
    await until('the new queue is shown', async () => 'extra' in (await resources()));
    assert.equal((await resources())['extra']?.['Runtime'], '1-600');
    const job = await run({ Executable: 'true', Resources: { Queue: 'extra' } });
    assert.equal(job['status'], 'SUCCESSFUL', String(job['statusMessage']));
  });

  it('last while the batch system does not tell them', async () => {
    writeFileSync(broken, '');
    chmodSync(broken, 0o666);
    await until('it was asked twice', () => statSync(broken).size >= 2);
    assert.deepEqual(Object.keys(await resources()), ['batch', 'small', 'extra']);
  });
});
