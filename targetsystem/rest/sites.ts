import { z } from 'zod';
import { answersJson, answersNothing } from '#kernel/http/answers.js';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { everybody, operations } from '#kernel/http/operation.js';
import { json, noContent } from '#kernel/http/reply.js';
import { isOwner } from '#kernel/security/acl.js';
import { attributesOf } from '#kernel/security/caller.js';
import { idbSubject, type Idb, type TargetSystem } from '#xnjs/index.js';
import { Application, ApplicationList, Changes, Site, SiteList } from './answers.js';
import { imageErrors, machineErrors } from './answers-errors.js';
import { answersCreatedOrPlan } from './answers-placement.js';
import { changeMembers, type Changeable } from './changes.js';
import type { RestDeps } from './deps.js';
import { linksFrom } from './links.js';
import { listFilter, listParameters, renderList, selectPage } from './lists.js';
import { onSite, siteInput, users } from './policy.js';
import { ownedMembers } from './properties.js';
import { endMembers } from './sites-ends.js';
import { changeSiteParameters } from './site-parameters.js';
import { createSite, latestTerminationOf, newSite } from './sites-creation.js';
import { applicationId, renderApplicationOf, renderSite } from './sites-rendering.js';
import { visibleSystems } from './sites-visible.js';

const operation = operations<RestDeps>();

function idbOfSite({ idb, systems }: RestDeps, siteId: string): Idb {
  return idb.of(idbSubject(systems.get(siteId)));
}

const createSiteInList = operation({
  method: 'POST',
  path: '/sites',
  summary: 'Makes a target system from an image, as the factory does',
  input: z.object(newSite),
  body: 'json',
  query: ['dryRun'],
  answers: answersCreatedOrPlan,
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
    const numberOfJobs = await jobs.countOn(siteId);
    const system = systems.get(siteId);
    const properties = renderSite(system, idbOfSite(deps, siteId), linksFrom(baseUrl), {
      siteName,
      numberOfJobs,
      addresses: await addressesOf(deps, system),
      storages: storages.ofTarget(system),
      queues: attributesOf(caller).queues,
      usage: systems.usage(siteId),
      heard: systems.heard(siteId),
    });
    return json(selectFields(properties, fields));
  },
});

/** Left out while the hypervisor does not answer: all else is to be seen then too. */
async function addressesOf(
  { systems }: RestDeps,
  system: TargetSystem,
): Promise<readonly string[]> {
  return await systems.addresses(system.id).catch(() => []);
}

const changeSite = operation({
  method: 'PUT',
  path: '/sites/:siteId',
  summary:
    'Changes tags, ACL, termination time, what is done at its end, or the machine by its parameters',
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
    const system = systems.get(siteId);
    const changeable: Changeable<Parameters<typeof systems.update>[1]> = {
      ...ownedMembers(isOwner(system, caller), latestTerminationOf(deps, system)),
      ...endMembers(systems, system),
    };
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

const freezeSite = operation({
  method: 'POST',
  path: '/sites/:siteId/actions/freeze',
  summary: 'Has a target system parked on disk with its running jobs, until it is thawed',
  input: z.object(siteInput),
  answers: answersNothing,
  errors: [...machineErrors, 'VM_ILLEGAL_EVENT'],
  id: 'freezeSite',
  policy: onSite.own,
  run: async ({ systems }, { siteId }) => {
    await systems.parking.freeze(siteId);
    return noContent();
  },
});

const thawSite = operation({
  method: 'POST',
  path: '/sites/:siteId/actions/thaw',
  summary: 'Brings a target system back from disk; its jobs go on',
  input: z.object(siteInput),
  answers: answersNothing,
  errors: [...machineErrors, 'VM_ILLEGAL_EVENT', 'QUOTA_EXCEEDED'],
  id: 'thawSite',
  policy: onSite.own,
  run: async ({ systems }, { siteId }) => {
    await systems.parking.thaw(siteId);
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
    json(renderApplicationOf(idbOfSite(deps, siteId).applications, id)),
});

export const siteOperations = [
  createSiteInList,
  listSites,
  getSite,
  changeSite,
  deleteSite,
  freezeSite,
  thawSite,
  listSiteApplications,
  getSiteApplication,
];
