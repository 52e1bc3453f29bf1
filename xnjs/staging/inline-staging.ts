import { Readable } from 'node:stream';
import { parseDescription } from '../job/description.js';
import type { Staging } from './staging.js';

/**
 * Files whose content is in the description. Begun anew it starts from the beginning: the directory is
 * the job's own, so what is there already was left by a former try, and only what this try has written is
 * appended to or left alone.
 */
export const inlineStaging: Staging = {
  async stage(job, direction, { files }, signal) {
    if (direction === 'out') return { log: [] };
    const written = new Set<string>();
    const log: string[] = [];
    for (const { to, data, mode, permissions } of parseDescription(job.description).Imports) {
      const again = written.has(to);
      if (again && mode === 'nooverwrite') continue;
      signal.throwIfAborted();
      const source = Readable.from([Buffer.from(data)]);
      await files.write(to, source, { append: again && mode === 'append', signal });
      if (permissions !== undefined) await files.chmod(to, permissions);
      written.add(to);
      log.push(`[inline -> ${to}] done.`);
    }
    return { log };
  },
};
