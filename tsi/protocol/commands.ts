import { aclCommand, aclSpec } from './acl.js';
import { command, field, optional, prefixed, type Infer } from './message.js';
import {
  arrayRange,
  count,
  flag,
  jobMode,
  line,
  lineOrNone,
  oneOf,
  path,
  pathAndMode,
  yesOrNo,
} from './scalars.js';

/**
 * The commands (UNICORE TSI API; docs/protocols/tsi.md). `literal`, `more` and the submit id are
 * ours: other TSIs ignore headers that they do not know.
 */

/** Says that `$HOME`, `$USER` and `$LOGNAME` in the path are meant as they stand. */
const literal = optional('TSI_LITERAL_PATH', flag);

/** Says that the next chunk of the same transfer follows soon. */
const more = optional('TSI_MORE', flag);

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
  more,
});

/** `3` appends; everything else, also nothing, writes the file anew. */
export const appendAction = '3';
export const putFileChunk = command('TSI_PUTFILECHUNK', {
  action: optional('TSI_FILESACTION', line),
  file: field('TSI_FILE', pathAndMode),
  length: field('TSI_LENGTH', count),
  literal,
  more,
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

/** What jobs and runs on the login node have in common (§4.4). */
const place = {
  attemptId: optional('TSI_SUBMIT_ID', line),
  outcomeDir: field('TSI_OUTCOME_DIR', path),
  uspaceDir: field('TSI_USPACE_DIR', path),
  stdout: field('TSI_STDOUT', line),
  stderr: field('TSI_STDERR', line),
  jobName: optional('TSI_JOBNAME', line),
  email: optional('TSI_EMAIL', lineOrNone, 'NONE'),
  literal,
};

/** `memoryMiB` per node. */
const resources = {
  project: optional('TSI_PROJECT', lineOrNone),
  qos: optional('TSI_QOS', lineOrNone),
  exclusive: optional('TSI_EXCLUSIVE', yesOrNo),
  nodesFilter: optional('TSI_BSS_NODES_FILTER', lineOrNone),
  /** s */
  wallTime: optional('TSI_TIME', count),
  memoryMiB: optional('TSI_MEMORY', count),
  gpusPerNode: optional('TSI_GPUS_PER_NODE', count),
  nodes: optional('TSI_NODES', count, '-1'),
  processorsPerNode: optional('TSI_PROCESSORS_PER_NODE', count, '-1'),
  totalProcessors: optional('TSI_TOTAL_PROCESSORS', count, '-1'),
  queue: optional('TSI_QUEUE', lineOrNone, 'NONE'),
  siteResources: prefixed('TSI_SSR_', line),
};

export const submit = command(
  'TSI_SUBMIT',
  {
    reservation: optional('TSI_RESERVATION_REFERENCE', lineOrNone),
    /** `allocate`: files in the uspace for the id of the allocation, the pid and the exit code. */
    allocationId: optional('TSI_ALLOCATION_ID', line),
    ...place,
    arraySize: optional('TSI_ARRAY', arrayRange),
    /** How many members of the array run at a time. */
    arrayLimit: optional('TSI_ARRAY_LIMIT', count),
    ...resources,
    /** Absent: the batch system's directives are made of the headers here. */
    mode: optional('TSI_JOB_MODE', jobMode),
    /** `raw`: the file that holds the directives. */
    jobFile: optional('TSI_JOB_FILE', line),
    pidFile: optional('TSI_PID_FILE', line),
    exitCodeFile: optional('TSI_EXIT_CODE_FILE', line),
  },
  { body: true, bare: true },
);
export type Submit = Infer<typeof submit>;

export const runOnLoginNode = command('TSI_RUN_ON_LOGIN_NODE', place, { body: true, bare: true });
export type RunOnLoginNode = Infer<typeof runOnLoginNode>;

export const statusListing = command('TSI_GETSTATUSLISTING', {}, { bare: true });
export const processListing = command('TSI_GETPROCESSLISTING', {});
export const jobDetails = command('TSI_GETJOBDETAILS', { bssId: field('TSI_BSSID', line) });
export const abortJob = command('TSI_ABORTJOB', { bssId: field('TSI_BSSID', line) });
export const holdJob = command('TSI_HOLDJOB', { bssId: field('TSI_BSSID', line) });
export const resumeJob = command('TSI_RESUMEJOB', { bssId: field('TSI_BSSID', line) });
export const getPartitions = command('TSI_GET_PARTITIONS', {});
export const computeBudget = command('TSI_GET_COMPUTE_BUDGET', {});

const reference = { reference: field('TSI_RESERVATION_REFERENCE', line) };
/** `start` as `yyyy-MM-dd'T'HH:mm:ssZ` with a zone like `+0100` (§2.17). */
export const makeReservation = command('TSI_MAKE_RESERVATION', {
  reservationOwner: field('TSI_RESERVATION_OWNER', line),
  start: field('TSI_STARTTIME', line),
  /** Ours: names the reservation, so that one whose answer was lost is not made twice. */
  reservationId: optional('TSI_RESERVATION_ID', line),
  ...resources,
});
export type MakeReservation = Infer<typeof makeReservation>;
export const queryReservation = command('TSI_QUERY_RESERVATION', reference);
export const cancelReservation = command('TSI_CANCEL_RESERVATION', reference);

/** §2.10 */
export const fileAcl = command('TSI_FILE_ACL', {
  operation: field('TSI_ACL_OPERATION', oneOf('CHECK_SUPPORT', 'GETFACL', 'SETFACL')),
  path: field('TSI_ACL_PATH', path),
  change: optional('TSI_ACL_COMMAND', aclCommand),
  spec: optional('TSI_ACL_COMMAND_SPEC', aclSpec, 'NONE'),
  literal,
});

/** UNICORE/X sends the operation twice; the first counts (§2.18). */
export const uftp = command(
  'TSI_UFTP',
  {
    host: field('TSI_UFTP_HOST', line),
    port: field('TSI_UFTP_PORT', count),
    secret: field('TSI_UFTP_SECRET', line),
    operation: field('TSI_UFTP_OPERATION', oneOf('GET', 'PUT')),
    writeMode: optional('TSI_UFTP_WRITE_MODE', line),
    remoteFile: field('TSI_UFTP_REMOTE_FILE', line),
    localFile: field('TSI_UFTP_LOCAL_FILE', line),
    offset: optional('TSI_UFTP_OFFSET', count),
    length: optional('TSI_UFTP_LENGTH', count, '-1'),
    uspaceDir: field('TSI_USPACE_DIR', path),
    outcomeDir: field('TSI_OUTCOME_DIR', path),
    stdout: optional('TSI_STDOUT', line),
    stderr: optional('TSI_STDERR', line),
    pidFile: optional('TSI_PID_FILE', line),
    exitCodeFile: optional('TSI_EXIT_CODE_FILE', line),
    literal,
  },
  { bare: true },
);

export const userInfo = command('TSI_GET_USER_INFO', {}, { bare: true });
