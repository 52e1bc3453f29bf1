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
  readonly umask: string;
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
  return [
    `umask ${facts.umask}`,
    ...Object.entries(application.userEnvironment).map(([k, v]) => `export ${k}=${quote(v)}`),
    ...Object.entries(application.siteEnvironment).map(
      ([k, v]) => `export ${k}=${quoteExpanding(v)}`,
    ),
    ...resourceVariables(resources),
    `export UC_USERDN=${quote(facts.userDn)}`,
    'export PATH="${PATH}:."',
    `export UC_WORKING_DIRECTORY=${quote(directory)}`,
    `export UC_OUTPUT_DIRECTORY=${quote(directory)}`,
    `cd ${quote(directory)} || exit`,
    `[ ! -e ${abortMarker} ] || exit`,
    ...(application.executable === undefined ? [] : aboutExecutable(application.executable)),
    `rm -f ${exitCodeFile}`,
    '(',
    ...precommand(job),
    ...evaluated('Prologue', application.prologue),
    ...mainCommand(job, application, directory),
    'export UC_EXIT_CODE=$?',
    `echo "$UC_EXIT_CODE" > ${quote(directory)}${exitCodeFile}`,
    ...evaluated('Epilogue', application.epilogue),
    ...evaluated('user defined post-command', job['User postcommand']),
    ')',
    'UC_EXIT_CODE=$?',
    `[ -s ${quote(directory)}${exitCodeFile} ] || echo "$UC_EXIT_CODE" > ${quote(directory)}${exitCodeFile}`,
    '',
  ].join('\n');
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

/** A pre-command that fails ends the job, as it does where it is a process of its own (tsi-xnjs 4.5). */
function precommand(job: JobDescription): string[] {
  const run = evaluated('user defined pre-command', job['User precommand']);
  const mayFail = job.UserPrecommandIgnoreNonZeroExitCode || !job.RunUserPrecommandOnLoginNode;
  return run.length === 0 || mayFail
    ? run
    : [...run, 'UC_EXIT_CODE=$?; [ $UC_EXIT_CODE = 0 ] || exit $UC_EXIT_CODE'];
}

/** Without arguments the executable may be any shell command: `(a; b)`, `for …; done`. */
function mainCommand(job: JobDescription, application: Application, directory: string): string[] {
  const { executable, arguments: words } = application;
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
