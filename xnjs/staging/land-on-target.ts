import { quote } from '../incarnation/quote.js';
import type { Landing } from './landing.js';
import { absolute, chmodMode, moveIntoPlace, partOf, run } from './on-target.js';
import { targetOf } from './staging.js';
import type { ImportTransfer } from './transfer.js';

/** In the job's directory, with the rights of the user there. */
export async function landOnTarget(transfer: ImportTransfer, to: string): Promise<Landing> {
  const { entry, site, signal, progress } = transfer;
  const { identity } = targetOf(site);
  const [place, part] = [await absolute(transfer, to), await partOf(transfer)];
  // not by `wc`: busybox counts with 32 bits
  const sizeOf = async (path: string): Promise<number | undefined> =>
    (await site.tsi().list(identity, path, 'A', { signal }))[0]?.sizeBytes;
  return {
    size: () => sizeOf(place),
    partSize: () => sizeOf(part),
    readPart: (length) => site.tsi().read(identity, part, { length }, { signal }),
    writePart: (bytes, append) => {
      const mode = 0o666 & ~Number.parseInt(site.files.umask, 8);
      return site.tsi().write(identity, part, bytes, { mode, append }, { signal });
    },
    removePart: () => run(transfer, `rm -f -- ${quote(part)}`),
    place: (permissions) => {
      const appendFrom = progress.of(to)?.appendFrom ?? 0;
      const script =
        entry.mode === 'append'
          ? appendInPlace(part, place, appendFrom, entry.permissions)
          : moveIntoPlace(part, place, permissions);
      return run(transfer, script);
    },
  };
}

/** May be done again: the file is first cut to what it was. */
function appendInPlace(
  part: string,
  target: string,
  fromBytes: number,
  permissions: string | undefined,
): string {
  const [from, to] = [quote(part), quote(target)];
  const parent = quote(target.slice(0, Math.max(1, target.lastIndexOf('/'))));
  return [
    `mkdir -p -- ${parent} && : >> ${to} && truncate -s ${fromBytes} -- ${to} || exit 1`,
    `cat -- ${from} >> ${to} || exit 1`,
    ...(permissions === undefined ? [] : [`chmod ${chmodMode(permissions)} -- ${to} || exit 1`]),
    `rm -f -- ${from}`,
  ].join('\n');
}
