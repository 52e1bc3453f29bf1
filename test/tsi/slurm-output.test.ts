import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { inProject } from '../program.js';
import type { JobRequest } from '../../tsi/bss/bss.js';
import { splitCommand } from '../../tsi/bss/batch-commands.js';
import { batchOptions, resourceOptions } from '../../tsi/bss/slurm-options.js';
import {
  concernsWaiting,
  findMarked,
  hasEnded,
  isUncertain,
  parseBudget,
  parseDetails,
  parseJobId,
  parsePartitions,
  parseQueue,
} from '../../tsi/bss/slurm-output.js';

const recorded = (name: string): string =>
  readFileSync(inProject(`test/fixtures/slurm/${name}.txt`), 'utf8');

/** What commands said of their failure, by the command. */
const failures = new Map(
  recorded('failures')
    .split(/^\$ /m)
    .slice(1)
    .map((section) => {
      const [command = '', ...said] = section.split('\n');
      return [command, said.join('\n')] as const;
    }),
);
const failuresOf = (program: RegExp): string[] =>
  [...failures].filter(([command]) => program.test(command)).map(([, said]) => said);

describe('the queue of Slurm', () => {
  it('is read as recorded, members of an array under one id', () => {
    assert.deepEqual(
      [...parseQueue(recorded('squeue'))],
      [
        ['11', { state: 'RUNNING', queue: 'batch', rawState: 'RUNNING' }],
        ['10', { state: 'QUEUED', queue: 'batch', rawState: 'PENDING' }],
        ['9', { state: 'RUNNING', queue: 'batch', rawState: 'RUNNING' }],
        ['17', { state: 'SUSPENDED', queue: 'batch', rawState: 'SUSPENDED' }],
        ['14', { state: 'QUEUED', queue: 'small', rawState: 'PENDING' }],
      ],
    );
  });

  const states = {
    QUEUED: 'CONFIGURING PENDING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED SPECIAL_EXIT',
    RUNNING: 'COMPLETING RUNNING SIGNALING STAGE_OUT RESIZING',
    SUSPENDED: 'PREEMPTED STOPPED SUSPENDED',
    UNKNOWN: 'SOMETHING_NEW',
  };
  for (const [state, words] of Object.entries(states))
    it(`knows ${words} as ${state}`, () => {
      for (const word of words.split(' '))
        assert.equal(parseQueue(`7 ${word} batch`).get('7')?.state, state);
    });

  it('leaves out what has ended, however it ended', () => {
    const words =
      'BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY REVOKED TIMEOUT';
    for (const word of words.split(' ')) assert.equal(parseQueue(`7 ${word} batch`).size, 0);
  });

  it('lets the most alive member speak for an array', () => {
    const order = ['COMPLETED', 'PENDING', 'SUSPENDED', 'RUNNING', 'SOMETHING_NEW'];
    for (const [rank, word] of order.entries())
      for (const lower of order.slice(0, rank))
        for (const pair of [`7_1 ${word} b\n7_2 ${lower} b`, `7_1 ${lower} b\n7_[2-4%1] ${word} b`])
          assert.equal(parseQueue(pair).get('7')?.rawState, word);
  });

  it('reads jobs of many parts and jobs that wait for several partitions', () => {
    const jobs = parseQueue('8+0 RUNNING batch\n8+1 PENDING batch\n9 PENDING batch,small\n');
    assert.equal(jobs.get('8')?.state, 'RUNNING');
    assert.equal(jobs.get('9')?.queue, 'batch,small');
  });

  it('is empty only when it is', () => {
    assert.equal(parseQueue('\n').size, 0);
    for (const said of [
      ...failuresOf(/^squeue/),
      '7 RUNNING',
      'JOBID STATE PARTITION',
      '7 RUN batch x',
    ])
      assert.throws(() => parseQueue(said), { code: 'TSI_FAILED' });
  });
});

describe('the answer of sbatch', () => {
  it('has the id, in every form', () => {
    const forms = {
      '42\n': '42',
      '42;cluster\n': '42',
      'Submitted batch job 42\n': '42',
      'Submitted batch job 42 on cluster one\n': '42',
      'site: welcome to 3 nodes\nSubmitted batch job 42\n': '42',
    };
    for (const [text, id] of Object.entries(forms)) assert.equal(parseJobId(text), id);
  });

  it('has none where sbatch says something else', () => {
    for (const text of ['', 'Submitted', '42 jobs', ...failuresOf(/^sbatch/)])
      assert.equal(parseJobId(text), undefined);
  });

  it('is a refusal, or leaves open whether the job was taken', () => {
    const uncertain = [...failures].filter(([, said]) => isUncertain(said)).map(([key]) => key);
    assert.deepEqual(
      uncertain.filter((command) => command.startsWith('sbatch')),
      ['sbatch --parsable ./j # controller stopped; the job was taken'],
    );
  });
});

describe('details of a job', () => {
  it('are read as recorded', () => {
    const { JobId, JobState, TimeLimit, ExitCode, Command, StdOut } = parseDetails(
      recorded('show-job-running'),
    );
    assert.deepEqual(
      { JobId, JobState, TimeLimit, ExitCode, Command, StdOut },
      {
        JobId: '9',
        JobState: 'RUNNING',
        TimeLimit: 'UNLIMITED',
        ExitCode: '0:0',
        Command: './j 300 0',
        StdOut: '/dev/null',
      },
    );
  });

  it('are not forged by a name', () => {
    const details = parseDetails(recorded('show-job-odd-name'));
    assert.equal(details['JobName'], 'a UserId=root(0) JobState=COMPLETED');
    assert.equal(details['UserId'], 'nobody(65534)');
    assert.equal(details['Comment'], 'tsi-17 JobState=FAILED x');
    assert.notEqual(details['JobState'], 'FAILED');
  });

  it('of an array have those of its members', () => {
    const { JobId, ArrayTasks } = parseDetails(recorded('show-job-array'));
    assert.ok(Array.isArray(ArrayTasks));
    const members = ArrayTasks as Record<string, string>[];
    assert.ok(members.length > 1 && members.every(({ ArrayJobId }) => ArrayJobId === JobId));
  });

  it('are none where scontrol says something else', () => {
    for (const said of failuresOf(/^scontrol/))
      assert.throws(() => parseDetails(said), { code: 'TSI_FAILED' });
  });
});

describe('what else Slurm says', () => {
  it('partitions, the default among them', () => {
    const node = { CPUsPerNode: 8, MemoryPerNode: 1_000 * 1024 ** 2 };
    assert.deepEqual(parsePartitions(recorded('sinfo')), {
      batch: { Nodes: 1, isDefault: true, ...node },
      small: { Nodes: 1, isDefault: false, Runtime: 300, ...node },
    });
    assert.deepEqual(parsePartitions('gpu 2\ngpu 3\n'), { gpu: { Nodes: 5, isDefault: false } });
    assert.deepEqual(parsePartitions('fat 2 1-02:03:04 8 1000+\nfat 1 1-02:03:04 64+ 9000'), {
      fat: {
        Nodes: 3,
        isDefault: false,
        Runtime: 93_784,
        CPUsPerNode: 64,
        MemoryPerNode: 9_000 * 1024 ** 2,
      },
    });
    assert.throws(() => parsePartitions('slurm_load_partitions: no'), { code: 'TSI_FAILED' });
  });

  it('budgets: what is left of the limits of accounts and of the user in them', () => {
    assert.deepEqual(parseBudget(recorded('sshare'), 'nobody'), [
      { project: 'chem', remaining: 9, percent: 97, units: 'core-h' },
      { project: 'physics', remaining: 100, percent: 100, units: 'core-h' },
    ]);
    assert.deepEqual(parseBudget(recorded('sshare'), 'somebody'), []);
    assert.deepEqual(parseBudget('', 'nobody'), []);
    assert.deepEqual(parseBudget('a|x|cpu=60|cpu=90\n', 'x'), [
      { project: 'a', remaining: 0, percent: 0, units: 'core-h' },
    ]);
  });

  it('the job with a mark, in the queue and in the accounts', () => {
    assert.equal(findMarked(recorded('sacct'), 'tsi-18'), '3');
    assert.equal(findMarked('4_[1-2]|tsi-18\n', 'tsi-18'), '4');
    assert.equal(findMarked('4|x tsi-18\n5|tsi-180\n6|(null)\n', 'tsi-18'), undefined);
  });

  it('that a job has nothing left to end, and nothing else', () => {
    assert.ok(hasEnded('scancel: error: Kill job error on job id 5: Invalid job id specified'));
    for (const said of failuresOf(/^scancel/)) assert.ok(!hasEnded(said), said);
  });

  it('that members of an array wait, where others were suspended', () => {
    const waiting = [...failures].filter(([, said]) => concernsWaiting(said));
    assert.deepEqual(
      waiting.map(([command]) => command),
      ['scontrol suspend 27 # an array with members that wait'],
    );
  });
});

describe('options for sbatch', () => {
  const job: JobRequest = {
    uspaceDir: '/u',
    outcomeDir: '/u/out',
    stdout: 'stdout',
    stderr: 'stderr',
    script: '',
    text: '',
  };
  const site = { jobName: 'UnicoreJob' };
  const resources = (more: Partial<JobRequest>, nodesFilter?: string): string[] =>
    resourceOptions({ ...job, ...more }, { ...site, nodesFilter });

  it('are made of every resource', () => {
    assert.deepEqual(
      resources({
        jobName: 'sim',
        queue: 'batch',
        project: 'physics',
        qos: 'high',
        reservation: 'r1',
        nodesFilter: 'ib',
        nodes: 2,
        processorsPerNode: 4,
        totalProcessors: 8,
        gpusPerNode: 1,
        memoryMiB: 512,
        wallTime: 90,
        email: 'a@example.org',
        exclusive: true,
      }),
      [
        '--job-name=sim',
        '--partition=batch',
        '--account=physics',
        '--qos=high',
        '--reservation=r1',
        '--constraint=ib',
        '--nodes=2',
        '--ntasks-per-node=4',
        '--gpus-per-node=1',
        '--mem=512M',
        '--time=2',
        '--mail-user=a@example.org',
        '--mail-type=ALL',
        '--exclusive',
      ],
    );
  });

  it('leave to Slurm what is not asked for', () => {
    assert.deepEqual(resources({}), ['--job-name=UnicoreJob']);
    assert.deepEqual(resources({ totalProcessors: 8 }).slice(1), ['--ntasks=8']);
    assert.deepEqual(resources({ nodes: 2, totalProcessors: 8 }).slice(1), [
      '--nodes=2',
      '--ntasks=8',
    ]);
    assert.deepEqual(resources({ exclusive: false }).slice(1), []);
    assert.deepEqual(resources({ siteResources: { EXCLUSIVE: 'true' } }).slice(1), ['--exclusive']);
  });

  it("keep the site's filter of nodes, whatever the user adds", () => {
    assert.deepEqual(resources({}, 'own').slice(1), ['--constraint=own']);
    assert.deepEqual(resources({ nodesFilter: 'ib' }, 'own').slice(1), ['--constraint=own&ib']);
    assert.throws(() => resources({ nodesFilter: 'ib|all' }, 'own'), {
      message: /TSI_BSS_NODES_FILTER/,
    });
  });

  it('name output files as they are meant, and those of the members of an array', () => {
    assert.deepEqual(batchOptions({ ...job, stdout: '100%j' }), [
      '--chdir=/u',
      '--output=/u/out/100%%j',
      '--error=/u/out/stderr',
    ]);
    const members = batchOptions({ ...job, arraySize: 10, arrayLimit: 3 });
    assert.deepEqual(members.slice(1), [
      '--output=/u/out/stdout%a',
      '--error=/u/out/stderr%a',
      '--array=0-9%3',
    ]);
    assert.throws(() => batchOptions({ ...job, stdout: 'a\\b' }), { message: /TSI_STDOUT/ });
  });

  it('are one argument each: no value can become an option', () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), (jobName, queue) => {
        const options = resources({ jobName, queue });
        assert.deepEqual(options, [`--job-name=${jobName}`, `--partition=${queue}`]);
      }),
    );
  });
});

describe('command lines in tsi.properties', () => {
  it('are words, quoted as in a shell', () => {
    const line = `squeue  -o "%i %T" --x='a "b"' c\\ d ""`;
    assert.deepEqual(splitCommand('k', line), ['squeue', '-o', '%i %T', '--x=a "b"', 'c d', '']);
  });

  it('are refused where a quote is left open, or nothing is there', () => {
    for (const line of ['squeue "', "a 'b", ' ', 'a \\'])
      assert.throws(() => splitCommand('tsi.qstat_cmd', line), /tsi.qstat_cmd/);
  });
});
