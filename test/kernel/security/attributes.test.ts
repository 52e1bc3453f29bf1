import assert from 'node:assert/strict';
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { silentLog } from '#kernel/log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import { openAttributeFile } from '#kernel/security/attribute-file.js';
import { createMappingTable, mappingMigrations } from '#kernel/security/attribute-table.js';
import {
  createAttributeChain,
  type AttributeSource,
  type AttributeValues,
  type CombiningPolicy,
} from '#kernel/security/attributes.js';
import { parseDnPattern } from '#kernel/security/dn-pattern.js';
import { openVos } from '#kernel/security/vos.js';

const alice = 'CN=Alice,O=Physics,C=EU';
const log = silentLog;

describe('patterns of names', () => {
  const cases: [string, string, boolean][] = [
    ['CN=*,O=Physics,C=EU', alice, true],
    ['cn=a*e , o=PHYSICS, c=eu', alice, true],
    ['CN=Alice,O=Physics,C=EU', 'cn=alice,o=physics,c=eu', true],
    ['CN=*,C=EU', alice, false],
    ['*,O=Physics,C=EU', alice, true],
    ['*,C=EU', alice, true],
    ['*,O=Physics,C=EU', 'O=Physics,C=EU', true],
    ['CN=*,O=Physics,C=EU', 'CN=Mallory\\,O=Physics,O=Evil,C=EU', false],
    ['CN=*', 'CN=x+OU=Admins', false],
    ['CN=*', 'CN=a\\+b', true],
    ['CN=*,O=Physics,C=EU', 'CN=x,O=Physics,C=EU,O=Evil', false],
    ['CN=a.c', 'CN=abc', false],
  ];
  for (const [pattern, dn, fits] of cases)
    it(`${pattern} ${fits ? 'fits' : 'does not fit'} ${dn}`, () => {
      assert.equal(parseDnPattern(pattern)(dn), fits);
    });
});

describe('several attribute sources', () => {
  const source = (name: string, values?: AttributeValues): AttributeSource => ({
    name,
    find: () => Promise.resolve(values),
  });
  const broken: AttributeSource = { name: 'down', find: () => Promise.reject(new Error('down')) };
  const ask = (policy: CombiningPolicy, ...sources: AttributeSource[]) =>
    createAttributeChain(sources, policy, log)({ dn: alice });
  const first = source('first', { roles: ['user'], logins: ['a'] });
  const second = source('second', { logins: ['b', 'a'], groups: ['g'] });
  const nobody = source('nobody');

  it('are combined as UNICORE does', async () => {
    const merged = { roles: ['user'], logins: ['a', 'b'], groups: ['g'] };
    const overridden = { roles: ['user'], logins: ['b', 'a'], groups: ['g'] };
    assert.deepEqual(await ask('MERGE', nobody, first, second), merged);
    assert.deepEqual(await ask('MERGE_LAST_OVERRIDES', first, nobody, second), overridden);
    assert.deepEqual(await ask('FIRST_APPLICABLE', nobody, second, first), {
      logins: ['b', 'a'],
      groups: ['g'],
    });
    assert.equal(await ask('FIRST_ACCESSIBLE', nobody, first), undefined);
    assert.deepEqual(await ask('FIRST_ACCESSIBLE', broken, first), await ask('MERGE', first));
    assert.equal(await ask('MERGE', nobody), undefined);
  });
  it('never let a source that is down pass for one that knows nothing', async () => {
    for (const policy of ['MERGE', 'MERGE_LAST_OVERRIDES', 'FIRST_APPLICABLE'] as const)
      await assert.rejects(ask(policy, broken, first), { code: 'SITE_UNAVAILABLE' });
    await assert.rejects(ask('FIRST_ACCESSIBLE', broken), { code: 'SITE_UNAVAILABLE' });
  });
  it('ban whom one of them bans', async () => {
    const bans = source('bans', { roles: ['banned'] });
    for (const policy of ['MERGE', 'MERGE_LAST_OVERRIDES'] as const)
      assert.deepEqual(await ask(policy, bans, first), { roles: ['banned'] });
  });
});

describe('attribute sources', () => {
  let directory: string;
  before(async () => (directory = await mkdtemp(join(tmpdir(), 'attributes-'))));
  after(() => rm(directory, { recursive: true, force: true }));
  const written = async (name: string, text: string): Promise<string> => {
    const path = join(directory, name);
    await writeFile(`${path}.new`, text);
    await rename(`${path}.new`, path);
    return path;
  };

  it("read UNICORE's file in its two forms, and again when it has changed", async () => {
    const json = await written(
      'simple.json',
      `{ "CN=Alice, O=Physics, C=EU": { "role": "user", "xlogin": ["al", "alice"], "group": "users",
         "supplementaryGroups": ["proj"], "queue": "batch", "colour": "red" } }`,
    );
    const xml = await written(
      'simple.xml',
      `<fileAttributeSource xmlns="http://unicore.eu/unicore/file-attribute-source">
         <entry key="CN=Alice, O=Physics, C=EU">
           <attribute name="role"><value>user</value></attribute>
           <attribute name="xlogin"><value>al</value><value>alice</value></attribute>
           <attribute name="group"><value>users</value></attribute>
           <attribute name="supplementaryGroups"><value>proj</value></attribute>
           <attribute name="queue"><value>batch</value></attribute>
         </entry>
       </fileAttributeSource>`,
    );
    const expected = {
      dn: alice,
      roles: ['user'],
      logins: ['al', 'alice'],
      groups: ['users', 'proj'],
      supplementaryGroups: ['proj'],
      queues: ['batch'],
    };
    const matching = 'strict' as const;
    for (const path of [json, xml]) {
      const file = await openAttributeFile({ path, matching, log, recheckMs: 0 });
      assert.deepEqual(await file.find({ dn: 'cn=alice,o=Physics,c=EU' }), expected);
      assert.equal(await file.find({ dn: 'CN=Bob,O=Physics,C=EU' }), undefined);
    }
    const file = await openAttributeFile({ path: json, matching, log, recheckMs: 0 });
    await written('simple.json', '{ "CN=Alice,O=Physics,C=EU": { "role": ["admin"] } }');
    assert.deepEqual(await file.find({ dn: alice }), { dn: alice, roles: ['admin'] });
    await written('simple.json', '{ "CN=Alice,O=Physics,C=EU": { "role": 7 } }');
    assert.deepEqual((await file.find({ dn: alice }))?.roles, ['admin'], 'the last good one');
  });
  it('match expressions against whole names, if told to', async () => {
    const path = await written('re.json', '{ "CN=.*,O=Physics,C=EU": { "role": "user" } }');
    const file = await openAttributeFile({ path, matching: 'regexp', log });
    assert.deepEqual((await file.find({ dn: alice }))?.roles, ['user']);
    assert.equal(await file.find({ dn: `${alice},O=Evil` }), undefined);
  });
  for (const [name, text] of [
    ['no JSON', '{'],
    ['no name', '{ "nobody": { "role": "user" } }'],
    ['entities', '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'],
    ['an empty file', ''],
  ] as const)
    it(`refuse a file with ${name}`, async () => {
      const path = await written('wrong', text);
      await assert.rejects(openAttributeFile({ path, matching: 'strict', log }), {
        code: 'CONFIG_INVALID',
      });
    });

  it('keep a table of names and patterns, which others see change', async () => {
    const url = `sqlite:${join(directory, 'users.sqlite')}`;
    await using one = await openDatabase({ url, log });
    await using two = await openDatabase({ url, log });
    await migrate(one, 'users', mappingMigrations, log);
    await migrate(two, 'users', mappingMigrations, log);
    const editor = createMappingTable(one);
    const reader = createMappingTable(two, { recheckMs: 0 });
    await editor.add({ dn: 'CN=*,O=Physics,C=EU', role: 'user', logins: ['phys'] });
    await editor.add({ dn: 'cn=Alice, o=Physics, c=EU', role: 'admin', queues: ['fast'] });
    assert.deepEqual(await reader.find('CN=Bob,O=Physics,C=EU'), {
      roles: ['user'],
      logins: ['phys'],
    });
    const mine = { dn: alice, roles: ['admin', 'user'], queues: ['fast'] };
    assert.deepEqual(await reader.find(alice), mine, 'a name goes before patterns');
    await assert.rejects(editor.add({ dn: alice }), { code: 'CONFLICT' });
    await assert.rejects(editor.add({ dn: 'nobody' }), { code: 'BAD_REQUEST' });
    await editor.remove('CN=alice,O=physics,C=eu');
    assert.deepEqual((await reader.find(alice))?.logins, ['phys']);
    await editor.remove('CN=*,O=Physics,C=EU');
    assert.equal(await reader.find(alice), undefined);
    await assert.rejects(editor.remove(alice), { code: 'NOT_FOUND' });
    assert.deepEqual(await reader.list(), []);
  });

  it('know members of virtual organisations, by the file or by what their token claims', async () => {
    const path = await written(
      'vos.yaml',
      `vos:
  /astro: { members: ['CN=*,O=Physics,C=EU'], role: user, logins: [astro], queues: [night] }
  /bio: { claim: 'biology', role: user, logins: [bio], groups: [lab] }
`,
    );
    const vos = await openVos({ path, log });
    const claims = { vos: ['biology', '/astro-x'] };
    assert.deepEqual(await vos.find({ dn: alice }), {
      vos: ['/astro'],
      roles: ['user'],
      logins: ['astro'],
      queues: ['night'],
    });
    assert.deepEqual(await vos.find({ dn: alice, claims }), {
      vos: ['/astro', '/bio'],
      roles: ['user'],
      logins: ['astro', 'bio'],
      groups: ['lab'],
    });
    const asBio = await vos.find({ dn: alice, claims, vo: '/bio' });
    assert.deepEqual([asBio?.logins, asBio?.vos], [['bio'], ['/astro', '/bio']]);
    assert.deepEqual(await vos.find({ dn: alice, vo: '/bio' }), { vos: ['/astro'] });
    assert.equal(await vos.find({ dn: 'CN=Eve' }), undefined);
  });
});
