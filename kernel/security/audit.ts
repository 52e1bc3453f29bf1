import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { z } from 'zod';
import { systemClock, type Clock } from '#kernel/clock.js';
import { file } from '#kernel/config.js';
import { errorText } from '#kernel/errors.js';
import type { Caller } from '#kernel/http/caller.js';
import type { Log } from '#kernel/log.js';

/** One security decision, as it is to be written down. Holds no secrets. */
export type SecurityDecision = {
  /** `enrolment`: of a machine, by which it proves which one it is. */
  readonly what: 'login' | 'access' | 'enrolment';
  readonly allowed: boolean;
  readonly why: string;
  /** Of a login that was refused: the row of the catalogue of errors. */
  readonly code?: string;
  /** Absent: nobody was recognised. */
  readonly caller?: Caller;
  /** Without a caller: whose credentials they seem to be. */
  readonly subject?: string;
  /** The client's address, where the caller does not tell it. */
  readonly peer?: string;
  /** Of `access`: which operation, `GET /jobs/:jobId`, … */
  readonly operation?: string;
  /** … and on what. */
  readonly resource?: string;
};

/**
 * @param reqId of the request that was decided upon. No member of the decision: a copy with one more member is, in many
 *   places, of a shape of its own each time, which V8 keeps for long (ADR 29)
 */
export type Audit = (decision: SecurityDecision, reqId?: string) => void;

export const AuditConfig = z.strictObject({
  /** Lines of JSON are added to it. It is opened anew on SIGHUP, so that logrotate may move it away. */
  file,
});
export type AuditConfig = z.output<typeof AuditConfig>;

/** Whatever a client sends, a line stays a line of bounded length. */
const longestValue = 1_024;
const longestBatch = 65_536;

/** The members of a line, always in this order. */
function toLine(
  decision: SecurityDecision,
  reqId: string | undefined,
  time?: string,
): Record<string, unknown> {
  const { what, allowed, code, why, caller, subject, operation, resource } = decision;
  const peer = caller && 'peer' in caller ? String(caller.peer) : decision.peer;
  return {
    time,
    what,
    allowed,
    code: bounded(code),
    why: bounded(why),
    dn: bounded(caller?.dn ?? subject),
    role: bounded(caller?.role),
    method: bounded(caller?.method),
    peer: bounded(peer),
    operation: bounded(operation),
    resource: bounded(resource),
    reqId: bounded(reqId),
  };
}

function bounded(value: string | undefined): string | undefined {
  return value !== undefined && value.length > longestValue
    ? `${value.slice(0, longestValue)}…`
    : value;
}

/** Where there is no file of its own, the log has it: what was refused, and who came in. */
export function auditToLog(log: Log): Audit {
  const child = log.child({ part: 'security' });
  return (decision, reqId) => {
    const { what, allowed } = decision;
    if (what === 'login' && allowed) child.info(toLine(decision, reqId), 'caller accepted');
    else if (what === 'login') child.warn(toLine(decision, reqId), 'caller refused');
    else if (what === 'enrolment') child.warn(toLine(decision, reqId), 'machine refused');
    else if (!allowed) child.warn(toLine(decision, reqId), 'access refused');
    // with each request: not even made where nobody reads it
    else if (child.isLevelEnabled('debug')) child.debug(toLine(decision, reqId), 'access granted');
  };
}

export type AuditFile = Disposable & {
  readonly write: Audit;
  /** Goes on in a new file if the old one was moved away. */
  reopen(): void;
};

/**
 * Adds a line for each decision to a file. What one turn of the event loop decides is written at once; what
 * does not fit on the disk is lost and told in the log, and the service goes on.
 */
export function openAuditFile(
  { file: path }: AuditConfig,
  log: Log,
  clock: Clock = systemClock,
): AuditFile {
  const open = (): number => openSync(path, 'a', 0o600);
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  let fd = open();
  let batch = '';
  let failing = false;
  const flush = (): void => {
    const bytes = Buffer.from(batch);
    batch = '';
    try {
      for (let rest = bytes; rest.length > 0;) rest = rest.subarray(writeSync(fd, rest));
      failing = false;
    } catch (error) {
      if (!failing) log.error({ path, reason: errorText(error) }, 'audit file cannot be written');
      failing = true;
    }
  };
  const reopen = (): void => {
    flush();
    try {
      const next = open();
      closeSync(fd);
      fd = next;
    } catch (error) {
      log.error({ path, reason: errorText(error) }, 'audit file cannot be opened again');
    }
  };
  process.on('SIGHUP', reopen);
  process.on('exit', flush);
  return {
    write(decision, reqId) {
      const time = new Date(clock.now()).toISOString();
      if (batch === '') setImmediate(flush);
      batch += `${JSON.stringify(toLine(decision, reqId, time))}\n`;
      if (batch.length > longestBatch) flush();
    },
    reopen,
    [Symbol.dispose]() {
      process.off('SIGHUP', reopen);
      process.off('exit', flush);
      flush();
      closeSync(fd);
    },
  };
}

/** By the configuration: a file of its own, or the log. */
export function openAudit(
  config: AuditConfig | undefined,
  log: Log,
  use: (resource: Disposable) => unknown,
): Audit {
  if (!config) return auditToLog(log);
  const opened = openAuditFile(config, log);
  use(opened);
  return opened.write;
}
