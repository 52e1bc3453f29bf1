import assert from 'node:assert/strict';
import { existsSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import {
  decodeMachineSetup,
  decodeSetupReport,
  type MachineSetup,
} from '#tsi/protocol/machine-setup.js';
import { alice, linkTo, scratch, startAgent } from './agent-process.js';

const volume = { serial: 'data', path: '/mnt/data', isNew: true };
const setup: MachineSetup = {
  variables: { VSITE_PARAM_a: 'é $HOME', VSITE_PARAM_b: "it's" },
  login: alice.login,
  volumes: [],
};
const withVolume = (changes: object): unknown => ({
  ...setup,
  volumes: [{ ...volume, ...changes }],
});

describe('the set-up of a machine', () => {
  it('is read as it was written', () => {
    const whole = { ...setup, volumes: [volume] };
    assert.deepEqual(decodeMachineSetup(JSON.stringify(whole)), whole);
    const report = { volumes: [{ serial: 'data', device: '/dev/vdb', path: '/data' }] };
    assert.deepEqual(decodeSetupReport(JSON.stringify(report)), report);
  });

  for (const [what, message, field] of [
    ['a path that the system trusts', withVolume({ path: '/etc' }), 'path'],
    ['a way out of where volumes may be', withVolume({ path: '/mnt/../etc' }), 'path'],
    ['a serial with a slash', withVolume({ serial: '../vda' }), 'serial'],
    ['a variable with a line break', { ...setup, variables: { A: 'x\ny' } }, 'variables'],
    ['a variable with the name of none', { ...setup, variables: { 'A;B': 'x' } }, 'variables'],
    ['more volumes than can be', { ...setup, volumes: Array(9).fill(volume) }, 'volumes'],
    ['nobody to give volumes to', { ...setup, login: '-x' }, 'login'],
  ] as const)
    it(`is refused: ${what}`, () => {
      const expected = { code: 'TSI_PROTOCOL', details: { field } };
      assert.throws(() => decodeMachineSetup(JSON.stringify(message)), expected);
    });

  it('is told to programs in a file, which is replaced and never written through a link', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const [file, other] = [join(directory, 'parameters'), join(directory, 'other')];
    writeFileSync(other, 'mine');
    symlinkSync(other, file);
    const agent = await startAgent(scope, { properties: [`tsi.setup_file=${file}`] });
    const link = await linkTo(scope, agent.socket);
    assert.deepEqual(await link.setUp(setup), { volumes: [] });
    assert.equal(readFileSync(file, 'utf8'), `VSITE_PARAM_a='é $HOME'\nVSITE_PARAM_b='it'\\''s'\n`);
    assert.equal(statSync(file).mode & 0o777, 0o644);
    assert.equal(readFileSync(other, 'utf8'), 'mine');
  });

  it('says what it could not do, and tries that again', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const file = join(directory, 'none', 'parameters');
    const agent = await startAgent(scope, { properties: [`tsi.setup_file=${file}`] });
    const link = await linkTo(scope, agent.socket);
    const report = await link.setUp({ ...setup, volumes: [{ ...volume, serial: 'no_such_disk' }] });
    const problem = 'this machine sees no disk of that serial (virtio_blk)';
    assert.deepEqual(report?.volumes, [{ serial: 'no_such_disk', problem }]);
    assert.match(report.problem ?? '', /ENOENT/);
    assert.match((await link.setUp(setup))?.problem ?? '', /ENOENT/);
  });

  it('is not for an agent that is not to do it', async () => {
    await using scope = new Scope();
    const file = join(scratch(scope), 'parameters');
    const properties = ['tsi.setup=0', `tsi.setup_file=${file}`];
    const agent = await startAgent(scope, { properties });
    const link = await linkTo(scope, agent.socket);
    assert.equal(await link.setUp(setup), undefined);
    assert.ok(!existsSync(file));
  });
});
