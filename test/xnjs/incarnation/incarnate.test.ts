import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { IdbApplication } from '#imagerepo/contract.js';
import { idbOf } from '#xnjs/idb/idb.js';
import { resolveApplication } from '#xnjs/incarnation/application.js';
import { checkResources } from '#xnjs/incarnation/resources.js';
import { parseDescription } from '#xnjs/job/description.js';

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
