import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { siteUrl, writeConfiguration } from '#cli/quickstart/configuration.js';
import { explainFailure } from '#cli/quickstart/failure.js';
import { layoutOf, type Layout } from '#cli/quickstart/layout.js';
import { ServerError, startServer } from '#cli/quickstart/server.js';
import { Scope } from '#kernel/scope.js';
import { provideIdentities } from '../shared-files.js';

describe('a quickstart that fails', () => {
  let scope: Scope;
  let layout: Layout;
  beforeEach(async () => {
    scope = new Scope();
    const directory = await mkdtemp(join(tmpdir(), 'failure-'));
    scope.defer(() => rm(directory, { recursive: true, force: true }));
    layout = layoutOf(join(directory, 'state'));
    await mkdir(layout.state);
  });
  afterEach(() => scope.close());

  const noRights = Object.assign(new Error('EACCES: no'), { code: 'EACCES' });
  const full = Object.assign(new Error('ENOSPC: no'), { code: 'ENOSPC' });
  const remedies = [
    ['a used port', new ServerError('ADDRESS_IN_USE', 'the port is used'), /--port/],
    ['missing rights', noRights, /--state-dir and --cache-dir/],
    ['a full disk', full, /make room/],
  ] as const;
  for (const [what, error, remedy] of remedies)
    it(`says what to do about ${what}`, async () => {
      const text = await explainFailure(error, layout);
      assert.ok(text.startsWith(error.message), text);
      assert.match(text, remedy);
    });

  it('names the logs that there are', async () => {
    assert.equal(await explainFailure(new Error('why'), layout), 'why');
    await writeFile(layout.log, 'said');
    assert.equal(await explainFailure(new Error('why'), layout), `why\n  more in ${layout.log}`);
  });

  it('keeps the logs of an installation that does not stay, the last ones only', async () => {
    const folder = join(layout.state, '..', 'kept');
    await mkdir(folder);
    await writeFile(join(folder, 'older.log'), 'old');
    await writeFile(layout.log, 'said');
    const text = await explainFailure(new Error('why'), layout, folder);
    const kept = join(folder, 'vsite.log');
    assert.equal(text, `why\n  more in ${kept}`);
    assert.equal(await readFile(kept, 'utf8'), 'said');
    await assert.rejects(readFile(join(folder, 'older.log')), { code: 'ENOENT' });
  });

  it('knows a used port from the log of the server, not from what it said before', async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    scope.defer(() => void taken.close());
    const { port } = taken.address() as AddressInfo;
    const address = { host: '127.0.0.1', port };
    const machines = `test+unix:///default?socket=${layout.run}/nobody`;
    await provideIdentities(layout);
    await writeConfiguration(layout, address, { machines, acceleration: 'qemu' });
    await writeFile(layout.log, '{"level":60,"msg":"before","err":{"message":"before"}}\n');
    await assert.rejects(startServer(layout, siteUrl(address)), (error: ServerError) => {
      assert.equal(error.code, 'ADDRESS_IN_USE');
      assert.ok(error.message.includes(String(port)), error.message);
      return true;
    });
  });
});
