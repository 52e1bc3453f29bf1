import { Readable } from 'node:stream';
import { normalisePath } from '../files/path.js';
import { quote } from '../incarnation/quote.js';
import { runInBackground } from './background.js';
import { StagingError } from './errors.js';
import { absolute } from './on-target.js';
import { receiveOne } from './receive-files.js';
import { existsAlready } from './send.js';
import { targetOf } from './staging.js';
import { copyOnTarget, linkOnTarget } from './site-copy.js';
import { baseName, type Protocol } from './transfer.js';

/** Text in the description itself. */
export const inline: Protocol = {
  isLight: true,
  async import(transfer) {
    const { data } = transfer.entry;
    if (data === undefined) throw new StagingError('BAD_REQUEST', 'Data is missing');
    const bytes = Buffer.from(data);
    await receiveOne(transfer, '', {
      open: () =>
        Promise.resolve({ offset: 0, body: Readable.from([bytes]), totalBytes: bytes.length }),
    });
  },
};

/** Files of the target system, with the rights of the user there. */
export const file: Protocol = {
  async import(transfer) {
    const { entry, site, say } = transfer;
    const path = pathOf(entry.from, 'From');
    const to = normalisePath(entry.to.endsWith('/') ? `${entry.to}${baseName(path)}` : entry.to);
    const keeps = entry.mode === 'nooverwrite';
    if (
      keeps &&
      (await site.tsi().list(targetOf(site).identity, await absolute(transfer, to), 'A')).length > 0
    ) {
      say(`kept ${to.slice(1)}, which exists already`);
      return;
    }
    if (entry.mode === 'append')
      throw new StagingError('BAD_REQUEST', 'imports of local files cannot append');
    await copyOnTarget(transfer, path);
  },
  async export(transfer) {
    const { entry, progress, clock, id } = transfer;
    if (entry.mode === 'append')
      throw new StagingError('BAD_REQUEST', 'exports to local files cannot append');
    const from = await absolute(transfer, entry.from);
    const path = pathOf(entry.to, 'To');
    const to = path.endsWith('/') ? `${path}${baseName(from)}` : path;
    const draft = `${to}.UNICORE_${id}`;
    const [source, part, place] = [quote(from), quote(draft), quote(to)];
    const isNew = entry.mode === 'nooverwrite' && progress.of(to)?.created !== true;
    if (isNew) {
      const { site, signal } = transfer;
      if ((await site.tsi().list(targetOf(site).identity, to, 'A', { signal })).length > 0)
        throw existsAlready();
      await progress.note(to, { created: true });
    }
    const parent = quote(to.slice(0, Math.max(1, to.lastIndexOf('/'))));
    const script = [
      `[ -e ${source} ] || { echo ${quote(`there is no file ${entry.from}`)}; exit 1; }`,
      `mkdir -p -- ${parent} || exit 1`,
      `if [ -d ${source} ]; then mkdir -p -- ${place} && cp -RT -- ${source} ${place}; exit; fi`,
      `rm -rf -- ${part} && cp -p -- ${source} ${part} && mv -fT -- ${part} ${place}`,
    ];
    await runInBackground(transfer, script.join('\n'), clock);
  },
};

/** A symbolic link to a file of the target system. */
export const link: Protocol = {
  isLight: true,
  async import(transfer) {
    const { entry } = transfer;
    const from = pathOf(entry.from, 'From');
    const to = entry.to.endsWith('/') ? `${entry.to}${baseName(from)}` : entry.to;
    await linkOnTarget(transfer, from, await absolute(transfer, to));
  },
};

/** `file:/a`, `file:///a`: the absolute path, as it stands but for percent-encoding. */
function pathOf(url: string, field: string): string {
  const path = url.replace(/^[a-z]+:/i, '').replace(/^\/\/(?=\/)/, '');
  if (!path.startsWith('/') || path.startsWith('//'))
    throw new StagingError(
      'BAD_REQUEST',
      `${field} must have an absolute path, such as file:///data/x`,
    );
  const decoded = /%[0-9a-f]{2}/i.test(path) ? decodeURIComponent(path) : path;
  return normalisePath(decoded) + (path.endsWith('/') && path !== '/' ? '/' : '');
}
