import { z } from 'zod';
import { answersJson } from '#kernel/http/answers.js';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { everybody, operations, type Context } from '#kernel/http/operation.js';
import { pageParameters, renderPage, slicePage } from '#kernel/http/page.js';
import { json } from '#kernel/http/reply.js';
import { attributesOf } from '#kernel/security/caller.js';
import { idbSubject, type Idb, type IdbApplication } from '#xnjs/index.js';
import { Application, ApplicationList, FactoryList, type Rendered } from './answers.js';
import { imageErrors } from './answers-errors.js';
import { answersCreatedOrPlan, Factory } from './answers-placement.js';
import type { RestDeps } from './deps.js';
import { factoryId, hrefs, linksFrom } from './links.js';
import { renderPlacement } from './placement.js';
import { users } from './policy.js';
import { ownedProperties } from './properties.js';
import { createSite, newSite } from './sites-creation.js';
import {
  applicationId,
  canReserve,
  renderBudgets,
  renderApplicationOf,
  renderResources,
} from './sites-rendering.js';
import { visibleSystems } from './sites-visible.js';

const operation = operations<RestDeps>();

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
  run: async (deps, { fields }, context) => {
    const links = linksFrom(context.baseUrl);
    const properties = {
      ...ownedProperties({ ownerDn: deps.credential.dn, tags: [] }),
      siteName: deps.siteName,
      supportsReservation: String(visibleSystems(deps, context).some(canReserve)),
      resources: renderResources(idbOfFactory(deps), attributesOf(context.caller).queues),
      applications: offeredApplications(deps, context).map(applicationId),
      otherInfo: idbOfFactory(deps).info,
      remainingComputeTime: renderBudgets(deps.systems.list({ ownerDn: context.caller.dn })),
      ...(await renderPlacement(deps, context.caller)),
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
    json(renderApplicationOf(offeredApplications(deps, context), input.applicationId)),
});

const createSiteByFactory = operation({
  method: 'POST',
  path: '/factories/:factoryId',
  summary: 'Makes a target system from an image',
  input: z.object({ ...factoryInput, ...newSite }),
  body: 'json',
  query: ['dryRun'],
  answers: answersCreatedOrPlan,
  errors: imageErrors,
  id: 'createSiteByFactory',
  policy: users,
  run: createSite,
});

export const factoryOperations = [
  listFactories,
  getFactory,
  listFactoryApplications,
  getFactoryApplication,
  createSiteByFactory,
];
