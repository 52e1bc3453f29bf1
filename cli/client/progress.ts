import { Transform } from 'node:stream';

const units = ['B', 'kB', 'MB', 'GB', 'TB'] as const;
const redrawMs = 100;

/** `1.4 GB`: decimal units, as disks and networks are sold. */
export function formatBytes(bytes: number): string {
  const power = bytes < 1_000 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(bytes) / 3));
  return `${(bytes / 1_000 ** power).toFixed(power === 0 ? 0 : 1)} ${units[power] ?? 'B'}`;
}

/** `in.txt  ━━━━━━━━━━────────────  42 %  10.5 MB/s` */
export function drawBar(name: string, done: number, total: number, seconds: number): string {
  const share = total === 0 ? 1 : Math.min(1, done / total);
  const width = 24;
  const full = Math.round(share * width);
  const bar = '━'.repeat(full) + '─'.repeat(width - full);
  const speed = formatBytes(seconds === 0 ? 0 : done / seconds);
  return `${name}  ${bar}  ${String(Math.round(share * 100)).padStart(3)} %  ${speed}/s`;
}

/** Passes bytes on, and draws on a terminal how far it is; elsewhere it draws nothing. */
export function withProgress(name: string, totalBytes: number): Transform {
  const { stderr } = process;
  const started = performance.now();
  let [done, drawn] = [0, 0];
  const draw = (last: boolean): void => {
    const now = performance.now();
    if (!stderr.isTTY || (!last && now - drawn < redrawMs)) return;
    drawn = now;
    stderr.write(`\r\x1b[K${drawBar(name, done, totalBytes, (now - started) / 1_000)}`);
    if (last) stderr.write('\n');
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
