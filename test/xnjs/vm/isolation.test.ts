import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import { buildImage } from '#cli/image/build.js';
import { projectRoot } from '#kernel/project-root.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { silentLog } from '#kernel/log.js';
import { noNamespace, runInNamespace } from './namespace.js';

describe('what guests reach', { skip: noNamespace, timeout: 660_000 }, () => {
  // where packages can still be fetched
  before(async () => {
    const folder = join(projectRoot, 'test', 'fixtures', 'images', 'network-probe');
    const cacheDir = join(defaultCacheDirectory(), 'images');
    await buildImage(folder, { cacheDir, log: silentLog });
  });

  it('is what their kind of network allows', async () => {
    await runInNamespace('test/xnjs/vm/isolation-machines.ts');
  });
});
