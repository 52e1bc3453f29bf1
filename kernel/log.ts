import { mkdirSync, openSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { format } from 'node:util';
import { pino, stdSerializers, type DestinationStream, type Logger } from 'pino';

export type Log = Logger;

/** Never written, whatever object carries them (STYLE: configuration and logging). */
const secrets: ReadonlySet<string> = new Set([
  ...['authorization', 'password', 'passphrase', 'secret', 'token', 'key', 'assertion'],
]);

export type LogOptions = { level?: string; file?: string; stream?: DestinationStream };

/** JSON lines to stdout, or to `file`. Children carry the subsystem: `log.child({ part: 'xnjs.job' })`. */
export function createLog({ level = 'info', file, stream }: LogOptions = {}): Log {
  const to = stream ?? writer(file === undefined ? 1 : openLog(file));
  const log = pino(
    {
      ...{ level, base: null },
      formatters: { log: withoutSecrets },
      serializers: { err: (error: Error) => hideOwn(stdSerializers.err(error)) },
    },
    to,
  );
  // pino formats only what the first logger is made with. Children have this method from their parent
  const make: (this: Log, bindings: Facts, options?: object) => Log = Reflect.get(log, 'child');
  Object.assign(log, {
    child(this: Log, bindings: Facts, options?: object): Log {
      return make.call(this, withoutSecrets(bindings), options);
    },
  });
  return log;
}

type Facts = Record<string, unknown>;

/** Members of the line and of what is in it. pino's own redaction makes each line cost three times as much. */
function withoutSecrets(facts: Facts): Facts {
  let shown = hideOwn(facts);
  for (const name in shown) {
    const value = shown[name];
    if (typeof value !== 'object' || value === null || value instanceof Error) continue;
    const hidden = hideOwn(value);
    if (hidden !== value) shown = { ...shown, [name]: hidden };
  }
  return shown;
}

/** @returns the same where there is nothing to hide */
function hideOwn<T extends object>(facts: T): T {
  let hidden = facts;
  for (const name in facts)
    if (secrets.has(name) && facts[name] !== undefined)
      hidden = { ...hidden, [name]: '[redacted]' };
  return hidden;
}

function openLog(file: string): number {
  mkdirSync(dirname(file), { recursive: true });
  return openSync(file, 'a');
}

const errorLevel = 50;
const longestBatch = 65_536;

/**
 * Writes what one turn of the event loop has to say in one go, errors at once. What does not fit on the
 * disk is lost: the work that is told of goes on, whereas pino's own destination fails it, and at the end
 * of the process waits for space for ever.
 */
function writer(fd: number): DestinationStream {
  let batch = '';
  let scheduled = false;
  const flush = (): void => {
    const bytes = Buffer.from(batch);
    batch = '';
    scheduled = false;
    try {
      for (let rest = bytes; rest.length > 0;) rest = rest.subarray(writeSync(fd, rest));
    } catch {
      // nowhere to tell it
    }
  };
  process.on('exit', flush);
  return {
    // asks pino for `lastLevel`
    [Symbol.for('pino.metadata')]: true,
    lastLevel: 0,
    write(this: { lastLevel: number }, line: string) {
      batch += line;
      if (this.lastLevel >= errorLevel || batch.length > longestBatch) flush();
      else if (!scheduled) {
        scheduled = true;
        setImmediate(flush);
      }
    },
  } as DestinationStream;
}

/**
 * What libraries write to the console becomes lines of the log. Left alone it would break the log's form, and
 * on a full disk end the process: there Node's console throws.
 */
export function takeConsole(log: Log): void {
  const child = log.child({ part: 'console' });
  const write = (...values: unknown[]): void => child.warn(format(...values));
  for (const name of ['log', 'info', 'debug', 'warn', 'error'] as const) console[name] = write;
}

/** For tests and tools that have nowhere to write to. */
export const silentLog: Log = pino({ level: 'silent' });
