import { z } from 'zod';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { everybody, operations, RequestError } from '#kernel/http/operation.js';
import { pageParameters, renderPage, slicePage } from '#kernel/http/page.js';
import { created, json, noContent, type Reply } from '#kernel/http/reply.js';
import type { Context } from '#kernel/http/operation.js';
import { findGrant, isOwner } from '#kernel/security/acl.js';
import { attributesOf } from '#kernel/security/caller.js';
import {
  idbSubject,
  joinSizes,
  readMachineSize,
  type Idb,
  type IdbApplication,
  type MachineSize,
  type TargetSystem,
} from '#xnjs/index.js';
import { answersCreated, answersJson, answersNothing } from '#kernel/http/answers.js';
import {
  Application,
  ApplicationList,
  Changes,
  Factory,
  FactoryList,
  imageErrors,
  machineErrors,
  type Rendered,
  Site,
  SiteList,
} from './answers.js';
import { changeMembers } from './changes.js';
import type { RestDeps } from './deps.js';
import { factoryId, hrefs, linksFrom } from './links.js';
import {
  listFilter,
  listParameters,
  renderList,
  seesAll,
  selectPage,
  type ListFilter,
} from './lists.js';
import { onSite, siteInput, users } from './policy.js';
import {
  checkTermination,
  dateText,
  ownedMembers,
  ownedProperties,
  tagList,
} from './properties.js';
import { changeSiteParameters } from './site-parameters.js';
import {
  applicationId,
  canReserve,
  renderApplication,
  renderResources,
  renderSite,
} from './sites-rendering.js';

const operation = operations<RestDeps>();

/**
 * The caller's target systems and those that others let him see, the newest first; all where an
 * administrator asks for them.
 */
function visibleSystems(
  { systems }: RestDeps,
  { caller }: Context,
  filter?: ListFilter,
): TargetSystem[] {
  if (caller.role === 'anonymous') return [];
  return systems
    .list()
    .filter(
      ({ ownerDn, acl = [] }) =>
        seesAll(caller, filter) ||
        ownerDn === caller.dn ||
        findGrant(acl, caller, 'read') !== undefined,
    );
}

function idbOfSite({ idb, systems }: RestDeps, siteId: string): Idb {
  return idb.of(idbSubject(systems.get(siteId)));
}

/** The largest target system that can be had, of an image that says nothing. */
export function idbOfFactory({ idb, systems }: RestDeps): Idb {
  const { cpus, memoryMiB } = systems.limits;
  return idb.of({ applications: [], limits: { cpus, memoryBytes: memoryMiB * 1024 * 1024 } });
}

/** Without repetition: what the site and the caller's target systems offer together. */
function offeredApplications(deps: RestDeps, context: Context): IdbApplication[] {
  const ofSystems = visibleSystems(deps, context).map((system) => deps.idb.of(idbSubject(system)));
  const all = [...ofSystems, idbOfFactory(deps)].flatMap(({ applications }) => applications);
  return [...new Map(all.map((each) => [applicationId(each), each])).values()];
}

function getApplicationOf(applications: readonly IdbApplication[], id: string): Reply {
  const found = applications.find((each) => applicationId(each) === id);
  if (!found) throw new RequestError('NOT_FOUND', `there is no application ${id} here`);
  return json(renderApplication(found));
}

const factoryInput = { factoryId: z.literal(factoryId) };

const listFactories = operation({
  method: 'GET',
  path: '/factories',
  summary: 'The target system factories: one',
  input: z.object(pageParameters()),
  answers: answersJson(FactoryList),
  id: 'listFactories',
  policy: everybody,
  run: (_deps, page, { baseUrl, url }) =>
    json(renderPage(url, page, slicePage([linksFrom(baseUrl).factory()], page), 1)),
});

const getFactory = operation({
  method: 'GET',
  path: '/factories/:factoryId',
  summary: 'What target systems can be had here',
  input: z.object({ ...factoryInput, fields: fieldsParameter }),
  answers: answersJson(Factory),
  id: 'getFactory',
  policy: everybody,
  run: (deps, { fields }, context) => {
    const links = linksFrom(context.baseUrl);
    const properties = {
      ...ownedProperties({ ownerDn: deps.credential.dn, tags: [] }),
      siteName: deps.siteName,
      supportsReservation: String(visibleSystems(deps, context).some(canReserve)),
      resources: renderResources(idbOfFactory(deps), attributesOf(context.caller).queues),
      applications: offeredApplications(deps, context).map(applicationId),
      otherInfo: idbOfFactory(deps).info,
      remainingComputeTime: {},
      _links: hrefs({
        self: links.factory(),
        sites: links.collection('sites'),
        applications: `${links.factory()}/applications`,
        images: deps.imagesUrl(context.baseUrl),
      }),
    } satisfies Rendered<typeof Factory>;
    return json(selectFields(properties, fields));
  },
});

const listFactoryApplications = operation({
  method: 'GET',
  path: '/factories/:factoryId/applications',
  summary: 'The applications of all target systems of the caller',
  input: z.object(factoryInput),
  answers: answersJson(ApplicationList),
  id: 'listFactoryApplications',
  policy: everybody,
  run: (deps, _input, context) =>
    json({ applications: offeredApplications(deps, context).map(applicationId) }),
});

const getFactoryApplication = operation({
  method: 'GET',
  path: '/factories/:factoryId/applications/:applicationId',
  summary: 'One application and its options',
  input: z.object({ ...factoryInput, applicationId: z.string() }),
  answers: answersJson(Application),
  id: 'getFactoryApplication',
  policy: everybody,
  run: (deps, input, context) =>
    getApplicationOf(offeredApplications(deps, context), input.applicationId),
});

const image = z.string().min(1).max(256).optional();
const values = z.record(z.string().max(256), z.unknown());
/** UCC sends `parameters: {}` and no image; the image may also be one of the parameters. */
const newSite = {
  image,
  parameters: values.and(z.object({ image })).default({}),
  /** As a job would ask for them: `CPUs`, `Memory`, … */
  resources: values.default({}),
  terminationTime: dateText.optional(),
  tags: tagList.default([]),
};

async function createSite(
  deps: RestDeps,
  input: z.output<z.ZodObject<typeof newSite>>,
  { caller, baseUrl }: Context,
): Promise<Reply> {
  const { image: parameterImage, ...parameters } = input.parameters;
  const image = input.image ?? parameterImage ?? deps.defaultImage;
  if (image === undefined)
    throw new RequestError('BAD_REQUEST', 'image: name the image to make a target system from');
  const { runtimeSeconds, ...size } = joinSizes(
    readMachineSize('parameters', parameters, 'refuse'),
    readMachineSize('resources', input.resources, 'refuse'),
  );
  const terminationMs = chooseTermination(deps, input.terminationTime, runtimeSeconds);
  const system = await deps.systems.create({
    ownerDn: caller.dn,
    image,
    parameters: size,
    tags: input.tags,
    ...(terminationMs !== undefined && { terminationMs }),
  });
  return created(linksFrom(baseUrl).site(system.id));
}

/** As it was asked for, else the site's default; within what the site allows. */
function chooseTermination(
  deps: RestDeps,
  terminationMs: number | undefined,
  runtime: MachineSize['runtimeSeconds'],
): number | undefined {
  const { lifetimeSeconds, maxLifetimeSeconds } = deps.systems.limits;
  if (runtime && terminationMs !== undefined)
    throw new RequestError('BAD_REQUEST', `${runtime.field}: terminationTime says when it ends`);
  const seconds = runtime?.value ?? lifetimeSeconds ?? maxLifetimeSeconds;
  const ms =
    terminationMs ?? (seconds === undefined ? undefined : deps.clock.now() + seconds * 1_000);
  if (ms !== undefined) checkTermination(ms, latestOf(deps));
  return ms;
}

function latestOf({ systems, clock }: RestDeps): number {
  return clock.now() + (systems.limits.maxLifetimeSeconds ?? Number.POSITIVE_INFINITY) * 1_000;
}

const createSiteByFactory = operation({
  method: 'POST',
  path: '/factories/:factoryId',
  summary: 'Makes a target system from an image',
  input: z.object({ ...factoryInput, ...newSite }),
  body: 'json',
  answers: answersCreated,
  errors: imageErrors,
  id: 'createSiteByFactory',
  policy: users,
  run: createSite,
});

const createSiteInList = operation({
  method: 'POST',
  path: '/sites',
  summary: 'Makes a target system from an image, as the factory does',
  input: z.object(newSite),
  body: 'json',
  answers: answersCreated,
  errors: imageErrors,
  id: 'createSite',
  policy: users,
  run: createSite,
});

const listSites = operation({
  method: 'GET',
  path: '/sites',
  summary:
    'The target systems of the caller and those that others let him see; of all users for an ' +
    'administrator with filter=all',
  input: z.object({ ...listParameters(), filter: listFilter }),
  answers: answersJson(SiteList),
  id: 'listSites',
  policy: everybody,
  run: (deps, wish, context) => {
    const { found, total } = selectPage(visibleSystems(deps, context, wish.filter), wish);
    const links = linksFrom(context.baseUrl);
    return renderList(
      context.url,
      wish,
      found.map(({ id }) => links.site(id)),
      total,
    );
  },
});

const getSite = operation({
  method: 'GET',
  path: '/sites/:siteId',
  summary: 'One target system: its image, its machine and why its state is believed',
  input: z.object({ ...siteInput, fields: fieldsParameter }),
  answers: answersJson(Site),
  id: 'getSite',
  policy: onSite.read,
  run: async (deps, { siteId, fields }, { baseUrl, caller }) => {
    const { systems, jobs, storages, siteName } = deps;
    const { total } = await jobs.list({ targetId: siteId, offset: 0, num: 0 });
    const system = systems.get(siteId);
    const properties = renderSite(system, idbOfSite(deps, siteId), linksFrom(baseUrl), {
      siteName,
      numberOfJobs: total,
      addresses: await addressesOf(deps, system),
      storages: storages.ofTarget(system),
      queues: attributesOf(caller).queues,
      usage: systems.usage(siteId),
    });
    return json(selectFields(properties, fields));
  },
});

/** Left out while the hypervisor does not answer: all else is to be seen then too. */
async function addressesOf(
  { systems }: RestDeps,
  system: TargetSystem,
): Promise<readonly string[]> {
  if (system.image.metadata.tsi.transport !== 'tcp') return [];
  return await systems.addresses(system.id).catch(() => []);
}

const changeSite = operation({
  method: 'PUT',
  path: '/sites/:siteId',
  summary: 'Changes tags, ACL, termination time, or the machine by its parameters',
  input: z.looseObject(siteInput),
  body: 'json',
  answers: answersJson(Changes),
  id: 'changeSite',
  policy: onSite.modify,
  run: async (deps, { siteId, parameters, ...members }, { caller }) => {
    const { systems } = deps;
    // the machine first: what it refuses is told beside what follows
    const answered =
      parameters === undefined
        ? {}
        : { parameters: await changeSiteParameters(systems, siteId, parameters) };
    const changeable = ownedMembers(isOwner(systems.get(siteId), caller), latestOf(deps));
    const answers = await changeMembers(members, changeable, (change) =>
      systems.update(siteId, change),
    );
    return json({ ...answered, ...answers });
  },
});

const deleteSite = operation({
  method: 'DELETE',
  path: '/sites/:siteId',
  summary: 'Ends a target system with its machine; its jobs end with it',
  input: z.object(siteInput),
  answers: answersNothing,
  errors: machineErrors,
  id: 'deleteSite',
  policy: onSite.own,
  run: async ({ systems }, { siteId }) => {
    await systems.destroy(siteId);
    return noContent();
  },
});

const listSiteApplications = operation({
  method: 'GET',
  path: '/sites/:siteId/applications',
  summary: 'The applications of a target system',
  input: z.object(siteInput),
  answers: answersJson(ApplicationList),
  id: 'listSiteApplications',
  policy: onSite.read,
  run: (deps, { siteId }) =>
    json({ applications: idbOfSite(deps, siteId).applications.map(applicationId) }),
});

const getSiteApplication = operation({
  method: 'GET',
  path: '/sites/:siteId/applications/:applicationId',
  summary: 'One application and its options',
  input: z.object({ ...siteInput, applicationId: z.string() }),
  answers: answersJson(Application),
  id: 'getSiteApplication',
  policy: onSite.read,
  run: (deps, { siteId, applicationId: id }) =>
    getApplicationOf(idbOfSite(deps, siteId).applications, id),
});

export const siteOperations = [
  listFactories,
  getFactory,
  listFactoryApplications,
  getFactoryApplication,
  createSiteByFactory,
  createSiteInList,
  listSites,
  getSite,
  changeSite,
  deleteSite,
  listSiteApplications,
  getSiteApplication,
];
