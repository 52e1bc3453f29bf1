import type { Clock } from '#kernel/clock.js';
import { belowRoot, refuseIntoItself } from '../files/file-space.js';
import { quote } from '../incarnation/quote.js';
import { runInBackground } from '../staging/background.js';
import { absolute } from '../staging/on-target.js';
import type { StagingSite } from '../staging/staging.js';
import { moveMetadata } from '../storage/metadata.js';

/** However long it takes; done again, it ends the same. */
export async function copyFiles(
  work: { readonly site: StagingSite; readonly id: string; readonly signal: AbortSignal },
  { from, to }: { readonly from: string; readonly to: string },
  hasMetadata: boolean,
  clock: Clock,
): Promise<void> {
  const { site } = work;
  const { files } = site;
  const [source, target] = [belowRoot(from), belowRoot(to)];
  refuseIntoItself(source, target);
  if (site.target) {
    await files.stat(source);
    // a script that is waited for has a deadline
    const paths = [await absolute(work, source), await absolute(work, target)].map(quote);
    await runInBackground(work, `cp -RT -- ${paths.join(' ')}`, clock);
  } else await files.copy(source, target);
  if (hasMetadata) await moveMetadata(files, 'copy', source, target);
}
