import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { noNamespace, runInNamespace } from '../xnjs/vm/namespace.js';
import { buildTsiImage, type TsiImage } from './tsi-image.js';
import { findSources, sourcesVariable } from './unicore-tsi.js';

const sources = findSources();
const skip =
  sources.length === 0
    ? `${sourcesVariable} names no checkout of github.com/UNICORE-EU/tsi`
    : noNamespace;

describe(
  'machines with a UNICORE TSI, in a network namespace',
  { skip, timeout: 14_400_000 },
  () => {
    it('run the end-to-end suite, and survive what may happen to them', async () => {
      await using scope = new Scope();
      const directory = mkdtempSync(join(tmpdir(), 'vsite-tsi-images-'));
      scope.defer(() => rmSync(directory, { recursive: true, force: true }));
      const images: TsiImage[] = [];
      for (const source of sources)
        for (const tls of [true, false]) {
          const folder = join(directory, String(images.length));
          mkdirSync(folder);
          const built = await buildTsiImage(folder, source, tls);
          scope.defer(() => rmSync(dirname(built.image.parts.kernel ?? ''), { recursive: true }));
          images.push(built);
        }
      const list = join(directory, 'images.json');
      writeFileSync(list, JSON.stringify(images));
      await runInNamespace('test/real-tsi/machines.ts', [list]);
    });
  },
);
