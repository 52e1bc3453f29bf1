import { idbOf } from '../idb/idb.js';
import type { Application } from '../incarnation/application.js';
import { incarnate } from '../incarnation/incarnate.js';
import { checkResources } from '../incarnation/resources.js';
import { commandDirectories, commandScript } from '../incarnation/script.js';
import type { Target } from '../target.js';
import type { LoginNodeRun, Submission } from '../tsi/tsi.js';
import type { JobConfig } from './config.js';
import { jobName, notificationWish, passingFiles, type JobDescription } from './description.js';
import type { CommandPlan, Job, Plan } from './job.js';
import { parseDate } from '#kernel/dates.js';

/** File of the job directory in which a TSI leaves the id of an allocation (tsi-xnjs 2.8). */
export const allocationFile = 'UNICORE_ALLOCATION_ID';
export const pidFile = 'UNICORE_SCRIPT_PID';

/** What a job runs on its target system, and what is known of its way there. */
export type Runs = {
  readonly plan: Plan;
  /** `undefined`: there is nothing to run. */
  readonly main: Omit<Submission, 'attemptId'> | undefined;
  /** The pre- or post-command, if it runs by itself. */
  readonly command: (which: 'pre' | 'post') => Omit<LoginNodeRun, 'attemptId'> | undefined;
};

/** @throws what makes a description one that cannot be run here */
export function runsOf(
  job: Pick<Job, 'id' | 'parentId' | 'ownerDn' | 'createdMs' | 'run'>,
  description: JobDescription,
  target: Target,
  { defaultUmask }: Pick<JobConfig, 'defaultUmask'>,
): Runs {
  const idb = idbOf(target);
  const workingDirectory = jobDirectory(target, job);
  const { environment = {} } = target;
  const facts = { workingDirectory, userDn: job.ownerDn, environment };
  const incarnation = incarnate(description, idb, { ...facts, defaultUmask });
  const { application, submission, umask, ignoreNonZeroExitCode } = incarnation;
  const commandText = (which: 'pre' | 'post'): string | undefined =>
    ownCommand(which, description, application);
  const plan: Plan = {
    stagesIn: description.Imports.length > 0,
    stagesOut: description.Exports.length > 0 || passingFiles(description).length > 0,
    waitsForClient: description.haveClientStageIn,
    executes: submission !== undefined,
    ignoreNonZeroExitCode,
    umask,
    ...commandPlans(description, commandText),
    ...schedule(description, job.createdMs),
    ...(runsBeside(description, application) && { onLoginNode: true }),
    ...(description['Job type'] === 'ALLOCATE' && { allocates: true }),
  };
  return {
    plan,
    main: submission && { ...submission, ...modeOf(description, workingDirectory) },
    command: (which) => {
      const text = commandText(which);
      if (text === undefined) return undefined;
      const code = which === 'post' ? job.run.exitCode : undefined;
      const command = { which, text, ...(code !== undefined && { exitCode: code }) };
      const resources = checkResources(description, idb, application);
      return {
        uspaceDir: `${workingDirectory}/`,
        outcomeDir: `${workingDirectory}/${commandDirectories[which]}/`,
        stdout: 'stdout',
        stderr: 'stderr',
        jobName: jobName(description),
        script: commandScript(command, application, resources, { ...facts, umask }),
      };
    },
  };
}

/** Without a slash at the end. A child lies in its parent's. */
export function jobDirectory(
  { jobsDirectory }: Pick<Target, 'jobsDirectory'>,
  { id, parentId }: Pick<Job, 'id' | 'parentId'>,
): string {
  const base = jobsDirectory.replace(/\/+$/, '');
  return parentId === undefined ? `${base}/${id}` : `${base}/${parentId}/${id}`;
}

/** The image creator's command and the user's are one where both run on the login node (tsi-xnjs 4.5). */
function ownCommand(
  which: 'pre' | 'post',
  description: JobDescription,
  application: Application,
): string | undefined {
  const { preCommand, postCommand } = application;
  const isPre = which === 'pre';
  const user = isPre
    ? description.RunUserPrecommandOnLoginNode && description['User precommand']
    : description.RunUserPostcommandOnLoginNode && description['User postcommand'];
  const texts = [isPre ? preCommand : undefined, user, isPre ? undefined : postCommand];
  const given = texts.filter((text) => typeof text === 'string' && text.trim() !== '');
  return given.length === 0 ? undefined : given.join('\n');
}

function commandPlans(
  job: JobDescription,
  commandText: (which: 'pre' | 'post') => string | undefined,
): { preCommand?: CommandPlan; postCommand?: CommandPlan } {
  const pre = job.UserPrecommandIgnoreNonZeroExitCode || job.UserPrecommandIgnoreNonZeroExitcode;
  const post = job.UserPostcommandIgnoreNonZeroExitCode || job.UserPostcommandIgnoreNonZeroExitcode;
  return {
    ...(commandText('pre') !== undefined && { preCommand: { ignoreNonZeroExitCode: pre } }),
    ...(commandText('post') !== undefined && { postCommand: { ignoreNonZeroExitCode: post } }),
  };
}

function schedule(
  description: JobDescription,
  createdMs: number,
): Pick<Plan, 'notBeforeMs' | 'notify'> {
  const notBefore = description['Not before'];
  const notBeforeMs = notBefore === undefined ? undefined : parseDate(notBefore, createdMs);
  const notify = notificationWish(description);
  return { ...(notBeforeMs !== undefined && { notBeforeMs }), ...(notify && { notify }) };
}

/** Raw jobs and allocations are the batch system's, whoever wishes otherwise. */
function runsBeside(
  { 'Job type': type }: JobDescription,
  { runsOnLoginNode }: Application,
): boolean {
  return runsOnLoginNode && (type === 'BATCH' || type === 'ON_LOGIN_NODE');
}

function modeOf(
  { 'Job type': type, 'BSS file': file }: JobDescription,
  workingDirectory: string,
): Pick<Submission, 'mode' | 'jobFile' | 'allocationId'> {
  if (type === 'ALLOCATE') return { mode: 'allocate', allocationId: allocationFile };
  if (type !== 'RAW' || file === undefined) return {};
  return { mode: 'raw', jobFile: file.startsWith('/') ? file : `${workingDirectory}/${file}` };
}
