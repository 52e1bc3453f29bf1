import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { IdbApplication } from '#imagerepo/contract.js';
import { idbOf } from '#xnjs/idb/idb.js';
import { resolveApplication } from '#xnjs/incarnation/application.js';
import { checkResources } from '#xnjs/incarnation/resources.js';
import { parseDescription } from '#xnjs/job/description.js';
import { anImageMetadata } from '../vm/samples.js';

const application = (Version: string, more: Partial<IdbApplication> = {}): IdbApplication => ({
  Name: 'Sim',
  Version,
  Executable: `/opt/sim-${Version}`,
  ...more,
});
const limits = { cpus: 4, memoryBytes: 2 * 1024 ** 3 };
const idb = idbOf({ applications: [application('9.0'), application('10.1')], limits });
const resolve = (raw: Record<string, unknown>, applications = idb.applications) =>
  resolveApplication(parseDescription(raw), idbOf({ applications, limits }));
const check = (Resources: Record<string, unknown>, more = {}) => {
  return checkResources(parseDescription({ Resources, ...more }), idb);
};

describe('applications', () => {
  it('are found by name and version, without a version the newest', () => {
    assert.equal(resolve({ ApplicationName: 'Sim' }).executable, '/opt/sim-10.1');
    const old = { ApplicationName: 'Sim', ApplicationVersion: '9.0' };
    assert.equal(resolve(old).executable, '/opt/sim-9.0');
  });

  it('that are unknown are refused with those that exist', () => {
    for (const raw of [
      { ApplicationName: 'Nope' },
      { ApplicationName: 'Sim', ApplicationVersion: '1' },
    ])
      assert.throws(() => resolve(raw), {
        code: 'APPLICATION_UNKNOWN',
        message: /Sim 9\.0, Sim 10\.1/,
      });
    assert.throws(() => resolve({ ApplicationName: 'Sim' }, []), {
      message: /neither the image nor the site/,
    });
  });

  it('keep a conditional argument only if its first variable is set, be it empty', () => {
    const Arguments = ['-a$A?', '-b${B}?', '%C%?', 'what?', '$D'];
    const with_ = (Parameters: object) =>
      resolve({ ApplicationName: 'Sim', Parameters, Arguments: ['$A?'] }, [
        application('1', { Arguments, Environment: { B: 'site' } }),
      ]).arguments;
    assert.deepEqual(with_({}), ['-b${B}', 'what?', '$D', '$A?']);
    assert.deepEqual(with_({ A: '', C: '1' }), ['-a$A', '-b${B}', '%C%', 'what?', '$D', '$A?']);
  });

  it("let the job's environment win, and its executable", () => {
    const site = [application('1', { Environment: { A: 'site', B: 'site' } })];
    const resolved = resolve(
      {
        ApplicationName: 'Sim',
        Parameters: { A: 'p', C: 'p' },
        Environment: { C: 'e' },
        Executable: 'my',
      },
      site,
    );
    assert.deepEqual(resolved.userEnvironment, { A: 'p', C: 'e' });
    assert.deepEqual(resolved.siteEnvironment, { B: 'site' });
    assert.equal(resolved.executable, 'my');
  });
});

describe('resources', () => {
  it('are checked, converted and passed on, aliases too', () => {
    assert.deepEqual(
      check(
        { Runtime: '2h', CPUs: 2, Memory: '1G', Nodes: '1', Queue: 'vm', Project: 'r' },
        { Project: 'p' },
      ),
      {
        wallTime: 7_200,
        totalProcessors: 2,
        memoryMiB: 1_024,
        nodes: 1,
        queue: 'vm',
        project: 'p',
      },
    );
    assert.deepEqual(check({ TotalCPUs: 1, CPUs: 4 }).totalProcessors, 1);
    assert.deepEqual(check({ CPUs: 4, TotalCPUs: 1 }).totalProcessors, 1);
    assert.deepEqual(
      check({ QoS: 'x', Reservation: 'r', Exclusive: 'true', NodeConstraints: 'ib', Project: '' }),
      { queue: 'vm', qos: 'x', reservation: 'r', exclusive: true, nodesFilter: 'ib' },
    );
  });

  const refused: [Record<string, unknown>, string, RegExp][] = [
    [{ CPUsPerNode: 5 }, 'RESOURCE_OUT_OF_RANGE', /CPUsPerNode: 5 is outside 1-4/],
    [{ Nodes: 2 }, 'RESOURCE_OUT_OF_RANGE', /Nodes: 2 is outside 1-1/],
    [
      { MemoryPerNode: '3G' },
      'RESOURCE_OUT_OF_RANGE',
      /MemoryPerNode: 3G.*1048576-2147483648 bytes/,
    ],
    [{ Runtime: '0' }, 'RESOURCE_OUT_OF_RANGE', /Runtime: 0/],
    [
      { Runtime: '1.5h' },
      'RESOURCE_OUT_OF_RANGE',
      /Runtime: "1\.5h" is not a whole number with a unit/,
    ],
    [{ Nodes: '-1' }, 'RESOURCE_OUT_OF_RANGE', /Nodes: -1 is outside 1-1/],
    [{ Queue: 'fast' }, 'RESOURCE_OUT_OF_RANGE', /Queue.*"fast".*vm/],
    [{ Exclusive: 'yes' }, 'RESOURCE_OUT_OF_RANGE', /Exclusive/],
    [{ GPUsPerNode: 1 }, 'RESOURCE_UNKNOWN', /GPUsPerNode.*Runtime, Nodes/],
    [{ constructor: 1 }, 'RESOURCE_UNKNOWN', /constructor/],
  ];
  for (const [resources, code, message] of refused)
    it(`${JSON.stringify(resources)} is refused: ${code}`, () => {
      assert.throws(() => check(resources), { code, message });
    });
});

describe('applications of a site', () => {
  const sim = application('1.0', {
    Parameters: {
      N: { Type: 'INT' },
      X: { Type: 'DOUBLE' },
      FAST: { Type: 'BOOLEAN', Excludes: ['SLOW'] },
      SLOW: { Type: 'BOOLEAN', DependsOn: ['N'] },
      MODE: { Type: 'CHOICE', ValidValues: ['a', 'b'] },
      FILE: { Type: 'FILENAME' },
    },
    PreCommand: ['module load sim', 'true'],
    PostCommand: 'cleanup',
    RunOnLoginNode: true,
    IgnoreNonZeroExitCode: true,
  });
  const withParameters = (Parameters: object) => () =>
    resolve({ ApplicationName: 'Sim', Parameters }, [sim]);

  it('are found by a range of versions, the newest in it; an exact version wins', () => {
    const applications = ['1.0', '2.0', '2.5', '3.0', '2.x'].map((version) => application(version));
    const found = (ApplicationVersion: string) =>
      resolve({ ApplicationName: 'Sim', ApplicationVersion }, applications).executable;
    assert.equal(found('>=2 <3'), '/opt/sim-2.5');
    assert.equal(found('<2'), '/opt/sim-1.0');
    assert.equal(found('1.*'), '/opt/sim-1.0');
    assert.equal(found('2.x'), '/opt/sim-2.x');
    assert.throws(() => found('>3'), { code: 'APPLICATION_UNKNOWN', message: /Sim >3/ });
    assert.throws(() => found('2'), { code: 'APPLICATION_UNKNOWN' });
  });

  it('carry commands of their own, and say where they run', () => {
    const resolved = resolve({ ApplicationName: 'Sim' }, [sim]);
    assert.equal(resolved.preCommand, 'module load sim\ntrue');
    assert.equal(resolved.postCommand, 'cleanup');
    assert.ok(resolved.runsOnLoginNode && resolved.ignoreNonZeroExitCode);
    assert.equal(resolve({ Executable: 'x' }).runsOnLoginNode, false);
    assert.equal(resolve({ Executable: 'x', 'Job type': 'interactive' }).runsOnLoginNode, true);
    const Environment = { UC_PREFER_INTERACTIVE_EXECUTION: 'true' };
    assert.equal(resolve({ Executable: 'x', Environment }).runsOnLoginNode, true);
  });

  it('take options that are what they say, or only set, or not described', () => {
    for (const parameters of [
      { N: 3 },
      { N: '-3', X: '1e-3' },
      { FAST: 'TRUE', MODE: 'b' },
      { SLOW: 'false', N: '1' },
      { N: '', FAST: '', MODE: '' },
      { FILE: 'any thing', OTHER: 'x' },
    ])
      assert.doesNotThrow(withParameters(parameters), JSON.stringify(parameters));
  });

  const wrong: [object, RegExp][] = [
    [{ N: '1.5' }, /Parameters\.N: "1\.5" is not a whole number/],
    [{ X: 'one' }, /Parameters\.X: "one" is not a number/],
    [{ FAST: 'yes' }, /Parameters\.FAST: "yes" is neither/],
    [{ MODE: 'c' }, /Parameters\.MODE: "c" is not one of a, b/],
    [{ SLOW: 'true' }, /Parameters\.SLOW: needs N too/],
    [{ FAST: 'true', SLOW: 'true', N: 1 }, /Parameters\.FAST: cannot be given together with SLOW/],
  ];
  for (const [parameters, message] of wrong)
    it(`refuse ${JSON.stringify(parameters)}`, () => {
      assert.throws(withParameters(parameters), { code: 'JOB_INVALID', message });
    });

  it('are all that may be run where users bring no commands', () => {
    const closed = { ...idb, allowUserExecutable: false };
    for (const key of ['Executable', 'User precommand', 'User postcommand'])
      assert.throws(
        () => resolveApplication(parseDescription({ ApplicationName: 'Sim', [key]: 'x' }), closed),
        { code: 'JOB_INVALID', message: new RegExp(`^${key}: this site`) },
      );
    const job = parseDescription({ ApplicationName: 'Sim', Executable: '' });
    assert.equal(resolveApplication(job, closed).executable, '/opt/sim-10.1');
  });
});

describe('resources of a partition', () => {
  const partition = (Resources: object, more = {}) => ({ Resources, ...more });
  const { partitions } = anImageMetadata({
    partitions: {
      fast: partition({
        Nodes: '1-2',
        CPUsPerNode: '1-2',
        QoS: { Type: 'CHOICE', AllowedValues: ['high'] },
      }),
      batch: partition(
        {
          Runtime: '60-1d:1h',
          Nodes: '1-16:2',
          CPUsPerNode: '1-8:4',
          TotalCPUs: '1-128',
          Memory: '128M-8T:1G',
          GPUsPerNode: '0-4',
          ArraySize: '0-1000',
          ArrayLimit: '0-100',
          Licence: { Type: 'CHOICE', AllowedValues: ['none', 'gold'], Default: 'none' },
          Feature: { Type: 'CHOICE', AllowedValues: ['*', 'a'] },
          'my comment': { Type: 'STRING' },
          Ratio: { Type: 'DOUBLE', Range: '0.5-2' },
          Debug: { Type: 'BOOLEAN', Default: true },
        },
        { IsDefaultPartition: true },
      ),
    },
  });
  const large = idbOf({
    applications: [application('1', { Resources: { Nodes: '4', Licence: 'gold', Memory: '1G' } })],
    fragment: { partitions },
    limits: { cpus: 128, memoryBytes: 8 * 1024 ** 4 },
  });
  const ask = (Resources: object, more = {}) =>
    checkResources(parseDescription({ Resources, ...more }), large);
  const site = { LICENCE: 'none', DEBUG: 'true' };

  it('have defaults for what is not asked for', () => {
    assert.deepEqual(ask({}), {
      wallTime: 3_600,
      memoryMiB: 1_024,
      nodes: 2,
      processorsPerNode: 4,
      queue: 'batch',
      siteResources: site,
    });
  });

  it('have no default numbers of processors when one is asked for', () => {
    const { nodes, processorsPerNode, totalProcessors } = ask({ TotalCPUs: 100 });
    assert.deepEqual([nodes, processorsPerNode, totalProcessors], [undefined, undefined, 100]);
  });

  it("are the job's before the application's", () => {
    const sim = { ApplicationName: 'Sim' };
    const { nodes, memoryMiB, siteResources } = ask({ Licence: 'none', MemoryPerNode: '2G' }, sim);
    assert.deepEqual([nodes, memoryMiB, siteResources?.['LICENCE']], [4, 2_048, 'none']);
  });

  it('hold memory far beyond 2 GiB', () => {
    for (const [text, mebibytes] of [
      ['2G', 2_048],
      ['3G', 3_072],
      ['5G', 5_120],
      ['8G', 8_192],
      [5 * 1024 ** 3, 5_120],
      ['3T', 3 * 1024 ** 2],
      [1024 ** 3 + 1, 1_025],
    ] as const)
      assert.equal(ask({ Memory: text }).memoryMiB, mebibytes, String(text));
  });

  it('go to the fields of a submission, or to site resources by their names', () => {
    const request = ask({
      GPUsPerNode: '2',
      ArraySize: 10,
      ArrayLimit: 3,
      QoS: 'q',
      NodeConstraints: 'ib',
      Exclusive: false,
      Reservation: 'r',
      Project: 'p',
      Feature: 'anything',
      'my comment': 'hello there',
      Ratio: '1.50',
      Debug: 'false',
    });
    assert.deepEqual(request, {
      wallTime: 3_600,
      memoryMiB: 1_024,
      nodes: 2,
      processorsPerNode: 4,
      gpusPerNode: 2,
      arraySize: 10,
      arrayLimit: 3,
      qos: 'q',
      nodesFilter: 'ib',
      exclusive: false,
      reservation: 'r',
      project: 'p',
      queue: 'batch',
      siteResources: {
        FEATURE: 'anything',
        MY_COMMENT: 'hello there',
        RATIO: '1.5',
        DEBUG: 'false',
        LICENCE: 'none',
      },
    });
    const single = ask({ ArraySize: 1, ArrayLimit: 3 });
    assert.deepEqual([single.arraySize, single.arrayLimit], [undefined, undefined]);
  });

  it("may be expressions over the job's variables", () => {
    const more = { Parameters: { N: '3' }, Environment: { K: '1.5' } };
    assert.equal(ask({ Nodes: '${N + 1}' }, more).nodes, 4);
    assert.equal(ask({ Nodes: ' ${N * K} ' }, more).nodes, 5);
    assert.equal(
      ask({ Licence: '${N > 2 ? "gold" : "none"}' }, more).siteResources?.['LICENCE'],
      'gold',
    );
    assert.equal(ask({ Queue: '${"fa" + "st"}' }, more).queue, 'fast');
  });

  it('are those of the queue that is asked for', () => {
    assert.deepEqual(ask({ Queue: 'fast', Nodes: 2, QoS: 'high' }), {
      nodes: 2,
      qos: 'high',
      queue: 'fast',
    });
  });

  const refused: [object, RegExp][] = [
    [{ Queue: 'slow' }, /no queue "slow" here; offered: batch, fast/],
    [{ Queue: 'fast', Nodes: 3 }, /Nodes: 3 is outside 1-2/],
    [{ Queue: 'fast', QoS: 'low' }, /QoS: "low" is not one of high/],
    [{ Queue: 'fast', Licence: 'gold' }, /Licence: not offered here/],
    [{ Licence: 'silver' }, /Licence: "silver" is not one of none, gold/],
    [{ Ratio: '3' }, /Ratio: 3 is outside 0\.5-2/],
    [{ Ratio: 'x' }, /Ratio: "x" is not a number/],
    [{ Debug: 'maybe' }, /Debug: "maybe" is neither/],
    [{ 'my comment': 'a`id`' }, /my comment: must be one line/],
    [{ QoS: '$(id)' }, /QoS: must be one line/],
    [{ Nodes: '${UNSET}' }, /Nodes: the expression "UNSET": UNSET is not set/],
    [{ Nodes: '${99}' }, /Nodes: 99 is outside/],
    [{ Nodes: '${1/0}' }, /Nodes: "Infinity" is not a whole number/],
    [{ Nodes: '${process.exit()}' }, /Nodes: the expression/],
    [{ GPUsPerNode: '5' }, /GPUsPerNode: 5 is outside 0-4/],
  ];
  for (const [resources, message] of refused)
    it(`refuse ${JSON.stringify(resources)}`, () => {
      assert.throws(() => ask(resources), { message });
    });
});
