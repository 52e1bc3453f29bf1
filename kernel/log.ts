import { destination, pino, type DestinationStream, type Logger } from 'pino';

export type Log = Logger;

/** Never written, whatever object carries them (STYLE: configuration and logging). */
const secrets = ['authorization', 'password', 'passphrase', 'secret', 'token', 'key', 'assertion'];

export type LogOptions = { level?: string; file?: string; stream?: DestinationStream };

/** JSON lines to stdout, or to `file`. Children carry the subsystem: `log.child({ part: 'xnjs.job' })`. */
export function createLog({ level = 'info', file, stream }: LogOptions = {}): Log {
  const paths = secrets.flatMap((name) => [name, `*.${name}`]);
  const to =
    stream ??
    (file === undefined ? destination(1) : destination({ dest: file, sync: false, mkdir: true }));
  return pino({ level, base: null, redact: { paths, censor: '[redacted]' } }, to);
}

/** For tests and tools that have nowhere to write to. */
export const silentLog: Log = pino({ level: 'silent' });
