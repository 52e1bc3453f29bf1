import { z } from 'zod';
import { GridError } from '#kernel/errors.js';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { everybody, operations, RequestError, type Context } from '#kernel/http/operation.js';
import type { Caller } from '#kernel/http/caller.js';
import { created, json, jsonText, noContent, type Reply } from '#kernel/http/reply.js';
import { aclSubjectsOf, isOwner } from '#kernel/security/acl.js';
import {
  idbSubject,
  isUsable,
  readFlavour,
  readImageWish,
  type RawDescription,
  type TargetSystem,
} from '#xnjs/index.js';
import { answersCreated, answersJson, answersNothing } from '#kernel/http/answers.js';
import { Changes, Job, JobDescription, JobDetails, JobList } from './answers.js';
import { imageErrors, machineErrors } from './answers-errors.js';
import { answersCreatedOrPlan } from './answers-placement.js';
import { changeMembers } from './changes.js';
import type { RestDeps } from './deps.js';
import { fromJsdl, preferencesOf, refuseQueue, takeAccount } from './jobs-account.js';
import { jobText, renderJob } from './jobs-rendering.js';
import { linksFrom } from './links.js';
import {
  listFilter,
  listParameters,
  renderList,
  seesAll,
  type ListFilter,
  type ListWish,
} from './lists.js';
import { dryRun, renderPlan, requesterOf } from './placement.js';
import { jobInput, knownUsers, onJob, onSite, siteInput } from './policy.js';
import { ownedMembers } from './properties.js';

const operation = operations<RestDeps>();

/** Job descriptions may come as JSDL too. */
const converters = { 'application/xml': fromJsdl, 'text/xml': fromJsdl };

/** @param onTarget those of one target system, of which an administrator sees all */
async function renderJobs(
  { jobs }: RestDeps,
  wish: ListWish & { readonly filter?: ListFilter },
  onTarget: { targetId?: string },
  { caller, baseUrl, url }: Context,
): Promise<Reply> {
  const { tags = [], filter, ...page } = wish;
  const visibleTo =
    seesAll(caller, filter) || (caller.role === 'admin' && onTarget.targetId !== undefined)
      ? {}
      : { ownerDn: caller.dn, grantedTo: aclSubjectsOf(caller) };
  const { ids, total } = await jobs.list({ ...onTarget, ...visibleTo, tags, ...page });
  return renderList(url, wish, ids.map(linksFrom(baseUrl).job), total);
}

/** @param target absent: one that the server chooses */
async function submit(
  deps: RestDeps,
  target: TargetSystem | undefined,
  { dryRun: isDry = false, ...asked }: RawDescription & { readonly dryRun?: boolean },
  { caller, baseUrl }: Context,
): Promise<Reply> {
  const { jobs, systems, machines } = deps;
  if (target && !systems.find(target.id))
    throw new GridError(
      'CONFLICT',
      `target system ${target.id} takes no jobs any more: ${target.evidence.fact}`,
    );
  const urlOf = linksFrom(baseUrl).job;
  const { account, description } = takeAccount(asked);
  refuseQueue(description, caller);
  const preferences = preferencesOf(caller, account);
  const wish = { ownerDn: caller.dn, description, preferences, urlOf };
  const requester = requesterOf(caller);
  const namesImage = readImageWish(description) !== undefined;
  if (!namesImage && readFlavour(description) !== undefined)
    throw new RequestError('BAD_REQUEST', 'Flavour: only of jobs that name an image');
  if (isDry) {
    if (!namesImage)
      throw new RequestError('BAD_REQUEST', 'dryRun: only of jobs that name an image');
    const estimate = await machines.estimate(wish, { sentTo: target, requester });
    return json(renderPlan(estimate, systems.planner.prices?.currency));
  }
  if (namesImage)
    return created(urlOf((await machines.submit(wish, { sentTo: target, requester })).id));
  const { id: targetId } = target ?? (await chooseTarget(deps, description, caller));
  return created(urlOf((await jobs.submit({ ...wish, targetId })).id));
}

/**
 * The target system for a job that names none: one of the caller's that has the application, a ready
 * one before one that starts, the newest first; else a new one from the site's default image.
 */
async function chooseTarget(
  { systems, idb, defaultImage }: RestDeps,
  { ApplicationName: application }: RawDescription,
  caller: Caller,
): Promise<TargetSystem> {
  const { dn: ownerDn } = caller;
  const mine = systems
    .list({ ownerDn })
    // one that was made for a job ends with it
    .filter(({ jobId }) => jobId === undefined)
    .filter((system) => isUsable(system) || system.state === 'INITIALIZING')
    .sort((a, b) => Number(b.state === 'READY') - Number(a.state === 'READY'));
  const offers = (system: TargetSystem): boolean =>
    idb.of(idbSubject(system)).applications.some(({ Name }) => Name === application);
  const chosen = mine.find(offers) ?? mine[0];
  if (chosen) return chosen;
  if (defaultImage !== undefined) {
    const wish = { ownerDn, requester: requesterOf(caller), image: defaultImage };
    return await systems.create({ ...wish, parameters: {}, tags: [] });
  }
  throw new RequestError(
    'BAD_REQUEST',
    'there is no target system for this job: make one with POST /rest/core/sites first',
  );
}

const listJobs = operation({
  method: 'GET',
  path: '/jobs',
  summary:
    'The jobs of the caller and those that others let him see, the newest first; of all users for an ' +
    'administrator with filter=all',
  input: z.object({ ...listParameters(), filter: listFilter }),
  answers: answersJson(JobList),
  id: 'listJobs',
  policy: everybody,
  run: (deps, wish, context) => renderJobs(deps, wish, {}, context),
});

const submitJob = operation({
  method: 'POST',
  path: '/jobs',
  summary: 'Submits a job to a target system of the caller that the server chooses',
  input: z.looseObject({ dryRun }),
  body: 'json',
  query: ['dryRun'],
  converters,
  answers: answersCreatedOrPlan,
  errors: [...imageErrors, 'JOB_INVALID'],
  id: 'submitJob',
  policy: knownUsers,
  run: (deps, description, context) => submit(deps, undefined, description, context),
});

const toSite = {
  method: 'POST',
  summary: 'Submits a job to this target system',
  input: z.looseObject({ ...siteInput, dryRun }),
  body: 'json',
  query: ['dryRun'],
  converters,
  answers: answersCreatedOrPlan,
  errors: [...imageErrors, 'JOB_INVALID'],
  policy: onSite.write,
  run: (
    deps: RestDeps,
    { siteId, ...description }: { siteId: string; dryRun: boolean } & RawDescription,
    context: Context,
  ) => submit(deps, deps.systems.get(siteId), description, context),
} as const;
/** UCC submits to the target system itself, others to its list of jobs. */
const submitToSite = operation({ ...toSite, path: '/sites/:siteId', id: 'submitJobToSite' });
const submitToSiteJobs = operation({ ...toSite, path: '/sites/:siteId/jobs', id: 'submitSiteJob' });

const listSiteJobs = operation({
  method: 'GET',
  path: '/sites/:siteId/jobs',
  summary: 'The jobs of a target system that the caller may see, the newest first',
  input: z.object({ ...siteInput, ...listParameters(100) }),
  answers: answersJson(JobList),
  id: 'listSiteJobs',
  policy: onSite.read,
  run: (deps, { siteId, ...wish }, context) =>
    renderJobs(deps, wish, { targetId: siteId }, context),
});

const getJob = operation({
  method: 'GET',
  path: '/jobs/:jobId',
  summary: 'One job',
  input: z.object({ ...jobInput, fields: fieldsParameter }),
  answers: answersJson(Job),
  id: 'getJob',
  policy: onJob.read,
  run: async ({ jobs, clock }, { jobId, fields }, { baseUrl }) => {
    const job = await jobs.get(jobId);
    if (fields === undefined) return jsonText(jobText(job, baseUrl, clock.now()));
    return json(selectFields(renderJob(job, linksFrom(baseUrl), clock.now()), fields));
  },
});

const submitIntoAllocation = operation({
  method: 'POST',
  path: '/jobs/:jobId',
  summary: 'Submits a job that runs in this allocation',
  input: z.looseObject(jobInput),
  body: 'json',
  answers: answersCreated,
  errors: ['JOB_INVALID', 'JOB_LIMIT', 'CONFLICT'],
  id: 'submitIntoAllocation',
  policy: onJob.write,
  run: async ({ jobs }, { jobId, ...description }, { caller, baseUrl }) => {
    const urlOf = linksFrom(baseUrl).job;
    const preferences = preferencesOf(caller);
    const wish = { ownerDn: caller.dn, description, preferences, urlOf };
    return created(urlOf((await jobs.submitInto(jobId, wish)).id));
  },
});

const changeJob = operation({
  method: 'PUT',
  path: '/jobs/:jobId',
  summary: 'Changes tags, ACL or termination time',
  input: z.looseObject(jobInput),
  body: 'json',
  answers: answersJson(Changes),
  id: 'changeJob',
  policy: onJob.modify,
  run: async ({ jobs }, { jobId, ...members }, { caller }) =>
    json(
      await changeMembers(
        members,
        ownedMembers(isOwner(await jobs.get(jobId), caller), jobs.latestTerminationMs),
        (change) => jobs.update(jobId, change),
      ),
    ),
});

const deleteJob = operation({
  method: 'DELETE',
  path: '/jobs/:jobId',
  summary: 'Ends a job and removes its working directory',
  input: z.object(jobInput),
  answers: answersNothing,
  errors: machineErrors,
  id: 'deleteJob',
  policy: onJob.own,
  run: async ({ jobs }, { jobId }) => {
    await jobs.destroy(jobId);
    return noContent();
  },
});

const getDetails = operation({
  method: 'GET',
  path: '/jobs/:jobId/details',
  summary: 'What the batch system says of a job',
  input: z.object({ ...jobInput, fields: fieldsParameter }),
  answers: answersJson(JobDetails),
  errors: machineErrors,
  id: 'getJobDetails',
  policy: onJob.read,
  run: async ({ jobs }, { jobId, fields }) =>
    json(selectFields(asObject(await jobs.details(jobId)), fields)),
});

const getSubmitted = operation({
  method: 'GET',
  path: '/jobs/:jobId/submitted',
  summary: 'The description of a job as it was submitted, without inline data',
  input: z.object(jobInput),
  answers: answersJson(JobDescription),
  id: 'getSubmittedJob',
  policy: onJob.read,
  run: async ({ jobs }, { jobId }) => json((await jobs.get(jobId)).description),
});

/** `pause` and `resume` are ours: the original has them, but not in its REST interface. */
const actions = ['start', 'abort', 'restart', 'pause', 'resume'] as const;

const act = operation({
  method: 'POST',
  path: '/jobs/:jobId/actions/:action',
  summary: 'Starts a job that waits for its client, ends, pauses or resumes one, or runs one again',
  input: z.looseObject({ ...jobInput, action: z.string() }),
  body: 'json',
  answers: answersNothing,
  errors: [...machineErrors, 'JOB_ILLEGAL_EVENT'],
  id: 'actOnJob',
  policy: onJob.write,
  run: async ({ jobs }, { jobId, action }) => {
    const known = actions.find((name) => name === action);
    if (!known) throw new RequestError('NOT_FOUND', `a job has no action ${action}`);
    await jobs[known](jobId);
    return noContent();
  },
});

/** Batch systems that answer in JSON are passed on; other text is wrapped (unicore-rest 3.5.6). */
function asObject(details: string): Record<string, unknown> {
  try {
    const parsed: unknown = JSON.parse(details);
    if (typeof parsed === 'object' && parsed !== null) return { ...parsed };
  } catch {
    // not JSON
  }
  return { rawDetailsData: details };
}

export const jobOperations = [
  listJobs,
  submitJob,
  submitToSite,
  submitToSiteJobs,
  listSiteJobs,
  getJob,
  submitIntoAllocation,
  changeJob,
  deleteJob,
  getDetails,
  getSubmitted,
  act,
];
