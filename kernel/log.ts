import { destination, pino, type DestinationStream, type Logger } from 'pino';

export type Log = Logger;

/** Never written, whatever object carries them (STYLE: configuration and logging). */
const secrets = ['authorization', 'password', 'passphrase', 'secret', 'token', 'key', 'assertion'];

/** What waits for a log that cannot be written; more is dropped. */
const unwrittenBytes = 1024 * 1024;

export type LogOptions = { level?: string; file?: string; stream?: DestinationStream };

/** JSON lines to stdout, or to `file`. Children carry the subsystem: `log.child({ part: 'xnjs.job' })`. */
export function createLog({ level = 'info', file, stream }: LogOptions = {}): Log {
  const paths = secrets.flatMap((name) => [name, `*.${name}`]);
  const to =
    stream ?? survivor(file === undefined ? { dest: 1 } : { dest: file, sync: false, mkdir: true });
  return pino({ level, base: null, redact: { paths, censor: '[redacted]' } }, to);
}

/** A full disk costs lines of the log, not the work that would have written them. */
function survivor(options: Parameters<typeof destination>[0] & object): DestinationStream {
  return destination({ ...options, maxLength: unwrittenBytes }).on('error', () => undefined);
}

/** For tests and tools that have nowhere to write to. */
export const silentLog: Log = pino({ level: 'silent' });
