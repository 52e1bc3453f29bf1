import type { JobDescription } from '../job/description.js';
import type { Application } from './application.js';
import { quote, quoteExpanding } from './quote.js';
import type { ResourceRequest } from './resources.js';

export const exitCodeFile = 'UNICORE_SCRIPT_EXIT_CODE';
/** Its presence keeps a script that starts late from doing anything: the job was aborted meanwhile. */
export const abortMarker = '.UNICORE_ABORTED';

export type ScriptFacts = {
  /** Absolute, without trailing slash. */
  readonly workingDirectory: string;
  readonly userDn: string;
  /** What each job of the target system has. */
  readonly environment: Readonly<Record<string, string>>;
  readonly umask: string;
};

/** Where a command that runs by itself leaves its output and its exit code, below the job directory. */
export const commandDirectories = { pre: '.UNICORE_PRE_0', post: '.UNICORE_POST_0' } as const;

/** A command of the user or of the image creator, to be run by itself. */
export type Command = {
  readonly which: keyof typeof commandDirectories;
  /** Shell text. */
  readonly text: string;
  /** Of the main run, for what comes after it. */
  readonly exitCode?: number;
};

/**
 * The text behind `#TSI_SCRIPT` (tsi-xnjs 4.4), for bash. The user's parts run in a subshell and by
 * `eval`, so that neither `exit` nor `exec` nor a syntax error in them keeps the exit code from being
 * written; a killed job writes none. Epilogue and post-command see the exit code in `UC_EXIT_CODE`.
 */
export function jobScript(
  job: JobDescription,
  application: Application,
  resources: ResourceRequest,
  facts: ScriptFacts,
): string {
  const directory = `${facts.workingDirectory}/`;
  const isArray = resources.arraySize !== undefined;
  const whole = `${quote(directory)}${exitCodeFile}`;
  const file = isArray ? `${whole}"_\${UC_ARRAY_TASK_ID}"` : whole;
  return [
    ...preamble(application, resources, facts, directory),
    ...(application.executable === undefined ? [] : aboutExecutable(application.executable)),
    ...(isArray ? [taskId] : []),
    `rm -f ${file}`,
    '(',
    ...precommand(job),
    ...evaluated('Prologue', application.prologue),
    ...mainCommand(job, application, directory),
    'export UC_EXIT_CODE=$?',
    `echo "$UC_EXIT_CODE" > ${file}`,
    ...evaluated('Epilogue', application.epilogue),
    ...evaluated('user defined post-command', inScript(job, 'post')),
    ')',
    'UC_EXIT_CODE=$?',
    `[ -s ${file} ] || echo "$UC_EXIT_CODE" > ${file}`,
    // of a task array one file counts: with the code of a task that failed, if one did
    ...(isArray ? [`grep -qx 0 ${file} && [ -s ${whole} ] || cat ${file} > ${whole}`] : []),
    '',
  ].join('\n');
}

/** The script of a command that runs on the login node by itself; ends as the job's own script does. */
export function commandScript(
  { which, text, exitCode }: Command,
  application: Application,
  resources: ResourceRequest,
  facts: ScriptFacts,
): string {
  const output = `${facts.workingDirectory}/${commandDirectories[which]}/`;
  const file = `${quote(output)}${exitCodeFile}`;
  return [
    ...preamble(application, resources, facts, output),
    ...(exitCode === undefined ? [] : [`export UC_EXIT_CODE=${exitCode}`]),
    `rm -f ${file}`,
    '(',
    ...evaluated(`${which}-command`, text),
    ')',
    `echo $? > ${file}`,
    '',
  ].join('\n');
}

/** A pre- or post-command that is part of the job's own script. */
export function inScript(job: JobDescription, which: 'pre' | 'post'): string | undefined {
  return which === 'pre'
    ? job.RunUserPrecommandOnLoginNode
      ? undefined
      : job['User precommand']
    : job.RunUserPostcommandOnLoginNode
      ? undefined
      : job['User postcommand'];
}

/** Batch systems call the number of a task by names of their own. */
const taskId =
  'export UC_ARRAY_TASK_ID="${UC_ARRAY_TASK_ID:-${SLURM_ARRAY_TASK_ID:-${PBS_ARRAYID:-${LSB_JOBINDEX:-}}}}"';

function preamble(
  application: Application,
  resources: ResourceRequest,
  facts: ScriptFacts,
  outputDirectory: string,
): string[] {
  const directory = quote(`${facts.workingDirectory}/`);
  return [
    `umask ${facts.umask}`,
    // before those that may refer to it, or say otherwise
    ...Object.entries(facts.environment).map(([k, v]) => `export ${k}=${quote(v)}`),
    ...Object.entries(application.userEnvironment).map(([k, v]) => `export ${k}=${quote(v)}`),
    ...Object.entries(application.siteEnvironment).map(
      ([k, v]) => `export ${k}=${quoteExpanding(v)}`,
    ),
    ...resourceVariables(resources),
    `export UC_USERDN=${quote(facts.userDn)}`,
    'export PATH="${PATH}:."',
    `export UC_WORKING_DIRECTORY=${directory}`,
    `export UC_OUTPUT_DIRECTORY=${quote(outputDirectory)}`,
    `cd ${directory} || exit`,
    `[ ! -e ${abortMarker} ] || exit`,
  ];
}

function resourceVariables(resources: ResourceRequest): string[] {
  const values = {
    UC_NODES: resources.nodes,
    UC_PROCESSORS_PER_NODE: resources.processorsPerNode,
    UC_TOTAL_PROCESSORS: resources.totalProcessors,
    UC_RUNTIME: resources.wallTime,
    UC_MEMORY_PER_NODE: resources.memoryMiB,
  };
  return Object.entries(values).flatMap(([name, value]) =>
    value === undefined ? [] : [`export ${name}=${value}`],
  );
}

function aboutExecutable(executable: string): string[] {
  const [first = ''] = executable.trim().split(/\s/, 1);
  return [
    `export UC_EXECUTABLE=${quote(executable)}`,
    `chmod u+x ${quoteExpanding(first)} 2> /dev/null`,
  ];
}

/** Inside the script a pre-command that fails keeps nothing from running (tsi-xnjs 4.4). */
function precommand(job: JobDescription): string[] {
  return evaluated('user defined pre-command', inScript(job, 'pre'));
}

/** Batch systems that can allocate never run the script. */
const noAllocation = 'echo "this target system has no batch system that allocates" >&2; (exit 1)';

/** Without arguments the executable may be any shell command: `(a; b)`, `for …; done`. */
function mainCommand(job: JobDescription, application: Application, directory: string): string[] {
  const { executable, arguments: words } = application;
  if (job['Job type'] === 'ALLOCATE') return [noAllocation];
  if (executable === undefined) return [':'];
  const stdin = job.Stdin === undefined ? '' : ` < ${quote(directory + job.Stdin)}`;
  if (words.length === 0) return [`eval ${quote(executable)}${stdin}`];
  return [
    `set -- ${words.map(quoteExpanding).join(' ')}`,
    `eval ${quote(`${executable} "$@"`)}${stdin}`,
  ];
}

function evaluated(title: string, text: string | undefined): string[] {
  return text === undefined ? [] : [`# ${title}`, `eval ${quote(text)}`];
}
