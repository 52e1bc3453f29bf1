import { normalize } from 'node:path/posix';
import { quote } from '../incarnation/quote.js';
import { abortMarker, commandDirectories, exitCodeFile } from '../incarnation/script.js';
import { jobName, parseDescription } from './description.js';
import type { Job, Plan } from './job.js';
import { checkLoginNode } from './on-node.js';
import { progressFile } from './progress.js';
import { refreshIdb } from './refresh-idb.js';
import { allocationFile, jobDirectory, pidFile, runsOf } from './runs.js';
import { findSweep, type Sweep } from './sweep.js';
import { without } from './without.js';
import type { News, Task } from './work.js';

/** What a former run has left, and would be taken for this one's. */
const formerFiles = [exitCodeFile, abortMarker, allocationFile, pidFile, progressFile];

/** Reads the description, makes the directory, clears what a former run has left there. */
export async function prepare({ job, call, options }: Task): Promise<News> {
  const { config } = options;
  await refreshIdb({ job, call, options });
  const target = options.target(job.targetId);
  const sweep =
    job.parentId === undefined ? findSweep(job.description, config.sweepLimit) : undefined;
  const description = parseDescription(sweep ? sweep.parent : job.description);
  const plan = sweep
    ? sweepPlan(sweep, runsOf(job, description, target, config).plan, (child) => {
        runsOf(job, child, target, config);
      })
    : runsOf(job, description, target, config).plan;
  if (runsBeside(plan)) {
    const wish = description['Login node'];
    // which nodes there are is known while the target answers
    await call((_, there) => checkLoginNode(there, wish));
  }
  const directory = jobDirectory(target, job);
  const commands = (['pre', 'post'] as const).filter((which) => plan[`${which}Command`]);
  const script = [
    ...(job.parentId === undefined
      ? [`umask 022; mkdir -p -- ${quote(target.jobsDirectory)}`]
      : []),
    `umask ${plan.umask} && mkdir -p -- ${quote(directory)} && cd -- ${quote(directory)}`,
    `rm -f ${formerFiles.join(' ')}`,
    `rm -rf ${Object.values(commandDirectories).join(' ')}`,
    ...commands.map((which) => `mkdir ${commandDirectories[which]}`),
    ...(job.parentId === undefined ? [] : linksToParent(job, directory)),
  ];
  await call((tsi) => tsi.execute(target.identity, script.join(' &&\n')));
  const { login, groups } = target.identity;
  const type = description['Job type'];
  return {
    type: 'prepared',
    plan,
    facts: {
      name: jobName(description),
      jobType: type === 'RAW' ? 'BATCH' : type,
      directory: `${directory}/`,
    },
    log: [
      `Client: ${job.ownerDn} [${login} ${groups}]`,
      `Job directory: ${directory}/`,
      ...(job.run.number > 1 ? [`Deleted files of the former run: ${formerFiles.join(', ')}`] : []),
    ],
  };
}

/** Something of it runs on a login node. */
function runsBeside({ onLoginNode, allocates, preCommand, postCommand }: Plan): boolean {
  return onLoginNode === true || allocates === true || !!preCommand || !!postCommand;
}

/** @param check that a child could run here: the parent says so for all */
function sweepPlan(
  { values, child }: Sweep,
  plan: Plan,
  check: (child: ReturnType<typeof parseDescription>) => void,
): Plan {
  check(parseDescription(child(values[0] ?? '')));
  const shared = without(plan, 'preCommand', 'postCommand');
  return { ...shared, stagesOut: false, executes: true, sweep: values.length };
}

/**
 * What the parent has staged in, or its client has put there. Directories that the child stages into are
 * its own, with links in them.
 */
function linksToParent({ description }: Job, directory: string): string[] {
  const own = parseDescription(description).Imports.flatMap(({ to }) => ancestors(to));
  const levels = [...new Set(['.', ...own])];
  const parent = quote(directory.slice(0, directory.lastIndexOf('/')));
  const children = '????????-????-????-????-????????????';
  const skipped = [children, '.UNICORE*', 'UNICORE_*', 'stdout', 'stderr', 'bss_submit_*'];
  return [
    `mkdir -p -- ${levels.map(quote).join(' ')}`,
    `for level in ${levels.map(quote).join(' ')}; do
  for file in ${parent}/"$level"/* ${parent}/"$level"/.[!.]*; do
    name="\${file##*/}"
    case "$name" in ${skipped.join('|')}) continue;; esac
    [ ! -e "$file" ] || [ -e "$level/$name" ] || [ -L "$level/$name" ] || ln -s -- "$file" "$level/$name" || exit
  done
done`,
  ];
}

/** `a/b/c` lies in `a` and `a/b`. */
function ancestors(path: string): string[] {
  const names = normalize(path).split('/').filter(Boolean).slice(0, -1);
  return names.includes('..') ? [] : names.map((_, at) => names.slice(0, at + 1).join('/'));
}
