import { command, field, optional, prefixed, type Infer } from './message.js';
import { count, flag, line, lineOrNone, oneOf, path, pathAndMode } from './scalars.js';

/**
 * The commands (UNICORE TSI API; docs/protocols/tsi.md). Names ending in `literal` and the submit id are
 * ours: other TSIs ignore headers that they do not know.
 */

/** Says that `$HOME`, `$USER` and `$LOGNAME` in the path are meant as they stand. */
const literal = optional('TSI_LITERAL_PATH', flag);

/** With `extensions`, our agent adds a line that names what it can do beyond the original. */
export const ping = command(
  'TSI_PING',
  { extensions: optional('TSI_EXTENSIONS', flag) },
  { bare: true },
);
export const pingUid = command('TSI_PING_UID', {}, { bare: true });

export const executeScript = command(
  'TSI_EXECUTESCRIPT',
  { discardOutput: optional('TSI_DISCARD_OUTPUT', flag) },
  { body: true },
);

/** The data channel carries the bytes between the two terminators of the reply. */
export const getFileChunk = command('TSI_GETFILECHUNK', {
  path: field('TSI_FILE', path),
  offset: field('TSI_START', count),
  length: field('TSI_LENGTH', count),
  literal,
});

/** `3` appends; everything else, also nothing, writes the file anew. */
export const appendAction = '3';
export const putFileChunk = command('TSI_PUTFILECHUNK', {
  action: optional('TSI_FILESACTION', line),
  file: field('TSI_FILE', pathAndMode),
  length: field('TSI_LENGTH', count),
  literal,
});

export const listFiles = command(
  'TSI_LS',
  { mode: field('TSI_LS_MODE', oneOf('A', 'N', 'R')), path: field('TSI_FILE', path), literal },
  { bare: true },
);

export const diskSpace = command(
  'TSI_DF',
  { path: field('TSI_FILE', path), literal },
  { bare: true },
);

/** `wallTime` in seconds, `memoryMiB` per node. */
export const submit = command(
  'TSI_SUBMIT',
  {
    attemptId: optional('TSI_SUBMIT_ID', line),
    outcomeDir: field('TSI_OUTCOME_DIR', path),
    uspaceDir: field('TSI_USPACE_DIR', path),
    stdout: field('TSI_STDOUT', line),
    stderr: field('TSI_STDERR', line),
    jobName: optional('TSI_JOBNAME', line),
    email: optional('TSI_EMAIL', lineOrNone, 'NONE'),
    project: optional('TSI_PROJECT', lineOrNone),
    wallTime: optional('TSI_TIME', count),
    memoryMiB: optional('TSI_MEMORY', count),
    nodes: optional('TSI_NODES', count, '-1'),
    processorsPerNode: optional('TSI_PROCESSORS_PER_NODE', count, '-1'),
    totalProcessors: optional('TSI_TOTAL_PROCESSORS', count, '-1'),
    queue: optional('TSI_QUEUE', lineOrNone, 'NONE'),
    siteResources: prefixed('TSI_SSR_', line),
    literal,
  },
  { body: true, bare: true },
);
export type Submit = Infer<typeof submit>;

export const statusListing = command('TSI_GETSTATUSLISTING', {}, { bare: true });
export const processListing = command('TSI_GETPROCESSLISTING', {});
export const jobDetails = command('TSI_GETJOBDETAILS', { bssId: field('TSI_BSSID', line) });
export const abortJob = command('TSI_ABORTJOB', { bssId: field('TSI_BSSID', line) });
export const userInfo = command('TSI_GET_USER_INFO', {}, { bare: true });
