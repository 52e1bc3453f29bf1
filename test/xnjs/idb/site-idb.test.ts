import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { readSiteIdb } from '#xnjs/idb/site-idb.js';
import { inProject } from '../../program.js';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vsite-idb-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

function write(name: string, content: unknown): string {
  const path = join(directory, name);
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}
const read = (content: unknown) => readSiteIdb({ path: write('idb.json', content) });
const app = (Name: string, more = {}) => ({
  Name,
  Version: '1.0',
  Executable: '/bin/true',
  ...more,
});
const names = (applications: readonly { Name: string }[]) => applications.map(({ Name }) => Name);

describe('an IDB file', () => {
  it('is what the sample is', async () => {
    const path = inProject('config/idb/idb.json');
    const { applications, partitions } = await readSiteIdb({ path });
    assert.deepEqual(names(applications), ['Convert', 'Bash shell']);
    assert.equal(partitions.length, 2);
  });

  it('is read in every spelling of resources', async () => {
    const { partitions } = await read({
      Partitions: {
        slow: { Resources: { Nodes: 1, Old: '4:4', X: '3' } },
        batch: {
          IsDefaultPartition: 'true',
          OperatingSystem: 'LINUX',
          Resources: {
            Runtime: '60-2d:1h',
            Nodes: '1-16:1',
            Memory: '128M-16G',
            Licence: { Type: 'choice', 'Allowed values': ['none', 'gold'], Default: 'none' },
            Level: { Type: 'CHOICE', allowed_values: ['*'] },
            Ratio: { Type: 'double', Range: '0.5-1.5', Default: '1' },
            Comment: { Type: 'String', Description: 'free text' },
            Debug: { Type: 'boolean', Default: false },
            Bits: {},
          },
        },
      },
    });
    assert.deepEqual(
      partitions.map(({ name }) => name),
      ['batch', 'slow'],
    );
    const plain = JSON.parse(
      JSON.stringify(partitions.map(({ resources }) => resources)),
    ) as unknown;
    assert.deepEqual(plain, [
      {
        Runtime: { Type: 'INT', Min: 60, Max: 172_800, Default: 3_600 },
        Nodes: { Type: 'INT', Min: 1, Max: 16, Default: 1 },
        MemoryPerNode: { Type: 'INT', Min: 134_217_728, Max: 17_179_869_184 },
        Licence: { Type: 'CHOICE', AllowedValues: ['none', 'gold'], Default: 'none' },
        Level: { Type: 'CHOICE', AllowedValues: ['*'] },
        Ratio: { Type: 'DOUBLE', Min: 0.5, Max: 1.5, Default: 1 },
        Comment: { Type: 'STRING', Description: 'free text' },
        Debug: { Type: 'BOOLEAN', Default: 'false' },
        Bits: { Type: 'INT', Min: 0, Max: 1 },
      },
      {
        Nodes: { Type: 'INT', Min: 1, Max: 1, Default: 1 },
        Old: { Type: 'INT', Min: 4, Max: 4, Default: 4 },
        X: { Type: 'INT', Min: 3, Max: 3, Default: 3 },
      },
    ]);
  });

  it('may be written leniently, with comments', async () => {
    const idb = await read(`{
      // our own
      Applications: [{Name: 'A', "Version": "1", Executable: 'a', RunOnLoginNode: "true",},],
      Info: {admin: 'grid@site.example', racks: 3},
    }`);
    assert.equal(idb.applications[0]?.RunOnLoginNode, true);
    assert.deepEqual(idb.info, { admin: 'grid@site.example', racks: '3' });
  });

  const headers: [string, object, object][] = [
    [
      'lines',
      { ScriptHeader: ['#!/bin/bash', 'export A=1'] },
      { submit: '#!/bin/bash\nexport A=1' },
    ],
    ['a text without a line end', { ScriptHeader: '#!/bin/bash' }, { submit: '#!/bin/bash' }],
    ['a text with one', { ScriptHeader: '#!/bin/bash\n' }, { submit: '#!/bin/bash' }],
    ['no interpreter', { ScriptHeader: 'A=1' }, { submit: '#!/bin/bash\nA=1' }],
    [
      'an old template',
      { SubmitScriptTemplate: ['#!/bin/bash -l', '#COMMAND', '#RESOURCES', 'A=1', '#SCRIPT', ''] },
      { submit: '#!/bin/bash -l\nA=1', execute: undefined },
    ],
    [
      'an old template beside a header, which wins',
      { ScriptHeader: '#!/bin/bash', ExecuteScriptTemplate: '#!/bin/bash -x\n#SCRIPT' },
      { submit: '#!/bin/bash' },
    ],
  ];
  for (const [what, file, expected] of headers)
    it(`has a script header from ${what}`, async () => {
      const { scriptHeader } = await read(file);
      const { submit } = expected as { submit: string };
      const both = 'execute' in expected ? { submit } : { submit, execute: submit };
      assert.deepEqual(scriptHeader, both);
    });

  const partition = (Resources: object) => ({ Partitions: { batch: { Resources } } });
  const wrong: [string, unknown, RegExp][] = [
    ['a syntax error', '{"Applications": [}', /is no JSON: .*1:19/],
    ['an unknown key', { Aplications: [] }, /Unrecognized key: "Aplications"/],
    [
      'an application without a version',
      { Applications: [{ Name: 'A', Executable: 'a' }] },
      /Applications\.0\.Version/,
    ],
    [
      'an unknown key of an application',
      { Applications: [app('A', { Exe: '' })] },
      /Applications\.0: .*"Exe"/,
    ],
    [
      'an application that is there twice',
      { Applications: [app('A'), app('A')] },
      /A 1\.0 is there twice/,
    ],
    [
      'an unknown option type',
      { Applications: [app('A', { Parameters: { X: { Type: 'date' } } })] },
      /Applications\.0\.Parameters\.X\.Type/,
    ],
    ['a partition without resources', { Partitions: { p: {} } }, /Partitions\.p\.Resources/],
    [
      'a range that is none',
      partition({ Runtime: '1-x' }),
      /Partitions\.batch\.Resources\.Runtime: "1-x" is not a range/,
    ],
    [
      'a range the wrong way round',
      partition({ Nodes: '4-1' }),
      /Resources\.Nodes: "4-1" has its bounds/,
    ],
    ['a unit where there is none', partition({ Nodes: '1k-2k' }), /Resources\.Nodes/],
    [
      'a default outside',
      partition({ Nodes: '1-4:9' }),
      /Resources\.Nodes: Default: 9 is outside 1-4/,
    ],
    ['a choice of nothing', partition({ L: { Type: 'CHOICE' } }), /Resources\.L: AllowedValues/],
    [
      'a default that is no choice',
      partition({ L: { Type: 'CHOICE', AllowedValues: ['a'], Default: 'b' } }),
      /"b" is not one of a/,
    ],
    ['a type that is none', partition({ L: { Type: 'DATE' } }), /Resources\.L\.Type/],
    ['a resource that is none', partition({ L: [1] }), /Resources\.L: must be "lo-hi"/],
    ['a resource name for no header', partition({ 'a\n#TSI_X': 1 }), /letters, digits, blanks/],
    ['a header of another shell', { ScriptHeader: '#!/bin/dash' }, /"\/bin\/dash" is not/],
    [
      'a header with a line of the protocol',
      { ScriptHeader: ['#!/bin/bash', '#TSI_PING'] },
      /ScriptHeader: must not contain #TSI_/,
    ],
    [
      'a header with a carriage return',
      { ScriptHeader: '#!/bin/bash\r\nx' },
      /ScriptHeader.*carriage/,
    ],
    [
      'a template that goes on',
      { SubmitScriptTemplate: '#!/bin/bash\n#SCRIPT\necho' },
      /lines after #SCRIPT/,
    ],
    ['deep nesting', `{"Info": ${'['.repeat(50)}${']'.repeat(50)}}`, /deeper than/],
    ['a list', [], /expected object/],
  ];
  for (const [what, content, message] of wrong)
    it(`is refused for ${what}, naming file, place and reason`, async () => {
      await assert.rejects(read(content), (error: Error & { code?: string }) => {
        assert.equal(error.code, 'IDB_INVALID');
        assert.ok(error.message.startsWith(`${directory}/idb.json: `), error.message);
        assert.match(error.message, message);
        return true;
      });
    });

  it('that does not exist is refused', async () => {
    await assert.rejects(readSiteIdb({ path: join(directory, 'none') }), { code: 'IDB_INVALID' });
  });
});

describe('a directory of IDB files', () => {
  it('has a main file with partitions; the others add applications', async () => {
    write('site.json', { Partitions: { q: { Resources: {} } }, Applications: [app('Main')] });
    write('more.json', { Applications: [app('B'), app('C')] });
    write('one.json', app('D'));
    write('.hidden.json', 'broken');
    write('old.json~', 'broken');
    mkdirSync(join(directory, 'sub'));
    const { applications, partitions } = await readSiteIdb({ path: directory });
    assert.deepEqual(names(applications).sort(), ['B', 'C', 'D', 'Main']);
    assert.deepEqual(names(partitions.map(({ name }) => ({ Name: name }))), ['q']);
  });

  it('may name its main file', async () => {
    write('a.json', { Info: { x: 'y' } });
    write('b.json', app('B'));
    const { info } = await readSiteIdb({ path: directory, main: 'a.json' });
    assert.deepEqual(info, { x: 'y' });
    await assert.rejects(readSiteIdb({ path: directory, main: 'c.json' }), {
      message: /no file c/,
    });
  });

  it('names the file that is wrong', async () => {
    write('a.json', app('A'));
    write('b.json', { Applications: [app('B', { Version: '' })] });
    await assert.rejects(readSiteIdb({ path: directory }), {
      message: /b\.json: Applications\.0\.Version/,
    });
    write('b.json', app('A'));
    await assert.rejects(readSiteIdb({ path: directory }), { message: /A 1\.0 is there twice/ });
  });

  it('with partitions in two files is refused', async () => {
    for (const name of ['a.json', 'b.json']) write(name, { Partitions: {} });
    await assert.rejects(readSiteIdb({ path: directory }), { message: /a\.json, b\.json/ });
  });
});
