import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { jobStatus } from '#xnjs/job/status.js';
import { startRig, until, type Rig } from '../job/rig.js';
import { startWeb } from './web-server.js';

const Credentials = { Username: 'alice', Password: 'pa55word' };

describe('jobs that bring files along', { timeout: 60_000 }, () => {
  const scope = new Scope();
  let rig: Rig;
  before(async () => {
    rig = await startRig(scope);
  });
  after(() => scope.close());

  it('find them when they start, and show no credentials', async () => {
    const server = await startWeb(scope, (_, response) => response.end('3 4'));
    const id = await rig.submit({
      Executable: 'sh add.sh',
      Imports: [
        { From: `${server.url}/numbers`, To: 'in/numbers', Credentials },
        { To: 'add.sh', Data: 'read a b < in/numbers; echo $((a + b))' },
      ],
    });
    const job = await rig.finished(id);
    assert.equal(jobStatus(job), 'SUCCESSFUL', job.run.result?.message);
    assert.equal(rig.output(id), '7\n');
    assert.doesNotMatch(JSON.stringify(job), /pa55word/);
  });

  it('fail with a sentence that names file, URL and reason', async () => {
    const server = await startWeb(scope, (_, response) => response.writeHead(404).end());
    const id = await rig.submit({
      Executable: 'true',
      Imports: [
        { From: `${server.url}/none?key=pa55word`, To: 'data', Credentials },
        { To: 'x', Data: 'x' },
      ],
    });
    const job = await rig.finished(id);
    const host = new URL(server.url).host;
    assert.equal(
      job.run.result?.message,
      `Staging in failed: Import of "data" from ${server.url}/none failed: ${host} answers 404`,
    );
    const left = readdirSync(join(rig.directory, 'jobs', id));
    assert.deepEqual(
      left.filter((name) => name !== 'x'),
      [],
    );
  });

  it('can be aborted while a file is on its way', async () => {
    let asked = false;
    const server = await startWeb(scope, (_, response) => {
      asked = true;
      response.writeHead(200).write('x');
    });
    const id = await rig.submit({
      Executable: 'true',
      Imports: [{ From: server.url, To: 'never' }],
    });
    await until('it is on its way', () => asked);
    await rig.engine.abort(id);
    assert.equal(jobStatus(await rig.finished(id)), 'FAILED');
    assert.equal(existsSync(join(rig.directory, 'jobs', id, 'never')), false);
  });
});
