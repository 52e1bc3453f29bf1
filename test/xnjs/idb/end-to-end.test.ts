import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { IdbConfig } from '#xnjs/idb/config.js';
import { IdbSource } from '#xnjs/idb/idb-source.js';
import { Agent, scratch, startEngine, targetId, type Rig } from '../job/rig.js';

const siteIdb = {
  ScriptHeader: ['#!/bin/bash', 'export SITE="the site"'],
  Applications: [
    {
      Name: 'Show',
      Version: '2.1',
      Executable: "/usr/bin/printf '%s|'",
      Arguments: ['$SITE', '--in=$IN?', '--out=$OUT?', 'memory $UC_MEMORY_PER_NODE'],
      Resources: {
        Memory: '${GIB * 1024 * 1024 * 1024}',
        CPUsPerNode: '${IN == "x" ? 2 : 1}',
      },
      Parameters: { IN: { Type: 'CHOICE', ValidValues: ['x', 'y'] }, GIB: { Type: 'INT' } },
    },
    { Name: 'Show', Version: '1.9', Executable: 'false' },
  ],
};
describe('jobs with a site IDB on a real agent', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: Omit<Rig, 'agent'>;
  let idb: IdbSource;
  let own = '';

  before(async () => {
    const directory = scratch(scope);
    const path = join(directory, 'idb.json');
    writeFileSync(path, JSON.stringify(siteIdb));
    own = join(directory, 'own');
    mkdirSync(own, { mode: 0o755 });
    const config = IdbConfig.parse({ path, userFiles: [`${own}/*.json`, '$HOME/no/such/*'] });
    idb = scope.use(await IdbSource.open({ config, clock: systemClock, log: silentLog }));
    writeFileSync(
      join(own, 'mine.json'),
      "{Name: 'Mine', Version: '1', Executable: 'echo mine', Epilogue: 'id -un',}",
    );
    writeFileSync(join(own, 'wrong.json'), '{"Name": "Wrong", "Executable": "x"}');
    writeFileSync(
      join(own, 'secret.json'),
      '{"Name": "Secret", "Version": "1", "Executable": "x"}',
    );
    chmodSync(join(own, 'secret.json'), 0o600);
    writeFileSync(join(own, 'huge.json'), ' '.repeat(300_000));
    symlinkSync('/dev/zero', join(own, 'endless.json'));
    const agent = new Agent(directory);
    scope.defer(() => agent.kill());
    await agent.start();
    rig = await startEngine(scope, directory, agent.socket, { idb });
  });
  after(() => scope.close());

  it("runs the site's application under the site's header, sized by an expression", async () => {
    const id = await rig.submit({
      ApplicationName: 'Show',
      ApplicationVersion: '>=2 <3',
      Parameters: { IN: 'x', GIB: 2 },
    });
    const job = await rig.finished(id);
    assert.equal(job.run.result?.message, '');
    assert.equal(rig.output(id), 'the site|--in=x|memory 2048|');
  });

  it('refuses an option that is not what the application says of it', async () => {
    const job = await rig.finished(
      await rig.submit({ ApplicationName: 'Show', Parameters: { IN: 'z', GIB: 1 } }),
    );
    assert.match(job.run.result?.message ?? '', /Parameters\.IN: "z" is not one of x, y/);
  });

  it("runs applications of the user's own files, read as the user", async () => {
    const id = await rig.submit({ ApplicationName: 'Mine' });
    await rig.finished(id);
    assert.equal(rig.output(id).split('\n')[0], 'mine');
    const offered = idb.of(rig.targets.find(targetId)!).applications.map(({ Name }) => Name);
    assert.deepEqual([...new Set(offered)].sort(), ['Mine', 'Show']);
  });

  it('tells who misses an application what is wrong with the files', async () => {
    const job = await rig.finished(await rig.submit({ ApplicationName: 'Wrong' }));
    const message = job.run.result?.message ?? '';
    assert.match(message, /there is no application Wrong here; there are: Mine 1, Show/);
    assert.match(message, /wrong\.json: Version: /);
    assert.match(message, /huge\.json: is larger than/);
    if (process.geteuid?.() === 0) assert.match(message, /secret\.json|Permission denied/i);
  });
});
