import { Transform } from 'node:stream';

const units = ['B', 'kB', 'MB', 'GB', 'TB'] as const;
const redrawMs = 100;

/** `1.4 GB`: decimal units, as disks and networks are sold. */
export function formatBytes(bytes: number): string {
  const power = bytes < 1_000 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(bytes) / 3));
  return `${(bytes / 1_000 ** power).toFixed(power === 0 ? 0 : 1)} ${units[power] ?? 'B'}`;
}

function fill(share: number): string {
  const width = 24;
  const full = Math.round(Math.min(1, share) * width);
  return '━'.repeat(full) + '─'.repeat(width - full);
}

/**
 * `━━━━━━━━━━──────────────  user space  1.7 s of about 4.0 s`
 * @param aboutSeconds what half of such starts took; absent: none is known
 */
export function drawStart(mark: string, seconds: number, aboutSeconds: number | undefined): string {
  const about = aboutSeconds === undefined ? '' : ` of about ${aboutSeconds.toFixed(1)} s`;
  const bar = aboutSeconds === undefined ? '' : `${fill(seconds / aboutSeconds)}  `;
  return `${bar}${mark}  ${seconds.toFixed(1)} s${about}`;
}

/** `in.txt  ━━━━━━━━━━────────────  42 %  10.5 MB/s` */
export function drawBar(name: string, done: number, total: number, seconds: number): string {
  const share = total === 0 ? 1 : Math.min(1, done / total);
  const bar = fill(share);
  const speed = formatBytes(seconds === 0 ? 0 : done / seconds);
  return `${name}  ${bar}  ${String(Math.round(share * 100)).padStart(3)} %  ${speed}/s`;
}

/** Draws over what was drawn before, on a terminal only. @returns whether it has */
export function redraw(line: string): boolean {
  const { stderr } = process;
  if (stderr.isTTY) stderr.write(`\r\x1b[K${line}`);
  return stderr.isTTY;
}

/** Passes bytes on, and draws on a terminal how far it is; elsewhere it draws nothing. */
export function withProgress(name: string, totalBytes: number): Transform {
  const started = performance.now();
  let [done, drawn] = [0, 0];
  const draw = (last: boolean): void => {
    const now = performance.now();
    if (!last && now - drawn < redrawMs) return;
    drawn = now;
    const isDrawn = redraw(drawBar(name, done, totalBytes, (now - started) / 1_000));
    if (last && isDrawn) process.stderr.write('\n');
  };
  return new Transform({
    transform(chunk: Buffer, _encoding, pass) {
      done += chunk.length;
      draw(false);
      pass(null, chunk);
    },
    flush(pass) {
      draw(true);
      pass();
    },
  });
}
