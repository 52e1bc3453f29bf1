import * as commands from '#tsi/protocol/commands.js';
import { TsiError } from '#tsi/protocol/error.js';
import { errorText } from '#kernel/errors.js';
import { idbOf } from '../idb/idb.js';
import { resolveApplication } from '../incarnation/application.js';
import { evaluateResources } from '../incarnation/resources.js';
import type { Target } from '../target.js';
import type { LoginNodeRun, Submission, TsiIdentity } from '../tsi/tsi.js';
import { parseDescription } from './description.js';
import { commandOf, type Job } from './job.js';
import { callThere, chooseNode, onlyNode } from './on-node.js';
import { refreshIdb } from './refresh-idb.js';
import { runsOf, type Runs } from './runs.js';
import { maskScript, withoutSecrets } from './secrets.js';
import type { News, Task } from './work.js';

const longestShown = 12_000;

type Submitted = Extract<News, { type: 'submitted' }>;

/** Sent again after a crash, an attempt gets the id of what it started before. */
export async function submit(task: Task): Promise<Submitted> {
  const { job, unsent, options } = task;
  const { attemptId } = job.run;
  if (attemptId === undefined) throw new TypeError('a job without attempt is submitted');
  await refreshIdb(task);
  const isThere = job.plan?.onLoginNode === true || job.plan?.allocates === true;
  const node = isThere ? await chooseNode(task) : undefined;
  // not cut short when the job is aborted: what it starts must become known
  const { closing: signal } = options;
  return await callThere(task, node)(
    async (tsi, target) => {
      const { main } = ownRuns(task, target);
      if (!main) throw new TypeError('a job with nothing to run is submitted');
      const log = submissionLog(task, target, main, node);
      const { identity } = target;
      const as = `[${identity.login} ${identity.groups}]`;
      unsent.delete(attemptId);
      if (job.plan?.onLoginNode) {
        const run = asLoginNodeRun(main, attemptId);
        const pid = checkPid(await tsi.runOnLoginNode(identity, run, { signal }));
        const bssId = interactiveId(pid, node);
        const where = node ?? onlyNode;
        log.push('TSI reply: OK', `Submitted to TSI as ${as} with PID=${pid} on ${where}`);
        return { type: 'submitted', bssId, pid, log };
      }
      const id = await tsi.submit(identity, { ...main, attemptId }, { signal });
      // an allocation has no id before it is granted
      const bssId = id === '' ? interactiveId('0', node) : id;
      log.push('TSI reply: OK', `Submitted to TSI as ${as} with BSSID=${bssId}`);
      return { type: 'submitted', bssId, log };
    },
    (attempt, error) =>
      options.remark(
        job,
        `Submission attempt ${attempt} failed: ${errorText(error).slice(0, 2_000)}`,
      ),
  );
}

/** Starts the command that the job's state runs on the login node. */
export async function launch(task: Task): Promise<Extract<News, { type: 'launched' }>> {
  const { job, unsent, options } = task;
  const which = commandOf(job);
  const { attemptId } = job.run[which] ?? {};
  if (attemptId === undefined) throw new TypeError('a command without attempt is started');
  await refreshIdb(task);
  const node = await chooseNode(task);
  return await callThere(
    task,
    node,
  )(async (tsi, target) => {
    const run = ownRuns(task, target).command(which);
    if (!run) throw new TypeError('a command that there is not is started');
    unsent.delete(attemptId);
    const { closing: signal } = options;
    const pid = await tsi.runOnLoginNode(target.identity, { ...run, attemptId }, { signal });
    const log = [`Launched ${which}-command with PID=${checkPid(pid)} on ${node ?? onlyNode}`];
    return { type: 'launched', pid, log };
  });
}

function ownRuns({ job, options }: Task, target: Target): Runs {
  return runsOf(job, parseDescription(job.description), target, options.config);
}

/** What the user may read of a submission; the whole command with the first attempt only. */
function submissionLog(
  { job, options }: Task,
  target: Target,
  main: Omit<Submission, 'attemptId'>,
  node: string | undefined,
): string[] {
  const description = parseDescription(job.description);
  const requested = Object.entries(description.Resources).map(([k, v]) => `${k}=${v}`);
  const log = [
    `Requested resources: ${requested.join(', ') || 'none'}`,
    ...evaluationLog(description, target),
  ];
  const wanted = description['Login node'];
  if (node !== undefined) log.push(`Login node: ${node}`);
  else if (wanted !== undefined && job.plan?.onLoginNode)
    log.push(`Login node: ${onlyNode}, the only one; "${wanted}" was asked for`);
  if (job.run.number === 1) {
    const shown = runsOf(job, withoutSecrets(description), target, options.config).main ?? main;
    log.push(`TSI command:\n${commandText(job, shown, target.identity, description)}`);
  }
  return log;
}

/** What the expressions of job and application came to, and what the IDB added. */
function evaluationLog(description: ReturnType<typeof parseDescription>, target: Target): string[] {
  const idb = idbOf(target);
  const application = resolveApplication(description, idb);
  const { scripts, defaults } = evaluateResources(description, idb, application);
  const evaluated = scripts.map(
    ({ name, expression, value }) => `${name}=${value} (${expression})`,
  );
  const added = defaults.map(({ name, value }) => `${name}=${value}`);
  return [
    ...(evaluated.length > 0 ? [`Evaluated resource scripts: ${evaluated.join(', ')}`] : []),
    ...(added.length > 0 ? [`Default resources: ${added.join(', ')}`] : []),
  ];
}

function commandText(
  { plan, run }: Job,
  main: Omit<Submission, 'attemptId'>,
  identity: TsiIdentity,
  description: ReturnType<typeof parseDescription>,
): string {
  const { attemptId = '' } = run;
  const text = plan?.onLoginNode
    ? `#TSI_RUN_ON_LOGIN_NODE\n#TSI_USPACE_DIR ${main.uspaceDir}\n#TSI_SCRIPT\n${main.script}`
    : commands.submit.encode({ ...main, attemptId }, identity);
  return maskScript(text, description).slice(0, longestShown);
}

function asLoginNodeRun(main: Omit<Submission, 'attemptId'>, attemptId: string): LoginNodeRun {
  const { uspaceDir, outcomeDir, stdout, stderr, jobName, email, script } = main;
  const mail = email === undefined ? {} : { email };
  return { uspaceDir, outcomeDir, stdout, stderr, jobName, ...mail, attemptId, script };
}

function interactiveId(pid: string, node = onlyNode): string {
  return `INTERACTIVE_${node}_${pid}`;
}

function checkPid(pid: string): string {
  if (/^[1-9]\d{0,9}$/.test(pid)) return pid;
  throw new TsiError('TSI_PROTOCOL', 'the TSI answers a run on the login node without a pid', {
    reply: pid.slice(0, 200),
  });
}
