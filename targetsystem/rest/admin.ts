import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { asGridError } from '#kernel/errors.js';
import { answersJson } from '#kernel/http/answers.js';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { adminOnly, operations, RequestError } from '#kernel/http/operation.js';
import { json } from '#kernel/http/reply.js';
import { accountingOperations } from './admin-accounting.js';
import { hostOperations } from './admin-hosts.js';
import { adminActions, requireKnown } from './admin-actions.js';
import { Admin, AdminOutcome, machineErrors, type Rendered } from './answers.js';
import type { RestDeps } from './deps.js';
import { isUsable, type TargetSystem } from '#xnjs/index.js';
import { hrefs } from './links.js';

const operation = operations<RestDeps>();

const getAdmin = operation({
  method: 'GET',
  path: '/',
  summary: 'How the service does, and what an administrator may order',
  input: z.object({ fields: fieldsParameter }),
  answers: answersJson(Admin),
  id: 'getAdmin',
  tag: 'admin',
  policy: adminOnly,
  run: async (deps, { fields }, { url }) => {
    const properties = {
      upSince: formatDate(deps.startedMs),
      containerVersion: deps.version,
      connectionStatus: deps.connections(),
      subSystemsStatus: subSystems(deps),
      metrics: await metrics(deps),
      _links: hrefs(
        Object.fromEntries(
          Object.entries(adminActions).map(([name, { description }]) => [
            `action:${name}`,
            { href: `${url.replace(/\/$/, '')}/actions/${name}`, description },
          ]),
        ),
      ),
    } satisfies Rendered<typeof Admin>;
    return json(selectFields(properties, fields));
  },
});

function byState(systems: readonly TargetSystem[]): [TargetSystem['state'], number][] {
  const states = new Map<TargetSystem['state'], number>();
  for (const { state } of systems) states.set(state, (states.get(state) ?? 0) + 1);
  return [...states];
}

function subSystems({ submission, systems, idb }: RestDeps): Record<string, string> {
  const { enabled, message } = submission.state;
  const orphans = systems.orphans.length;
  const orphaned = orphans > 0 ? [`${orphans} domains that belong to nobody`] : [];
  const counted = byState(systems.list()).map(([state, number]) => `${number} ${state}`);
  return {
    'Job submission': enabled ? 'OK' : `disabled: ${message}`,
    'Target systems': [...counted, ...orphaned].join(', ') || 'none',
    'Incarnation database': idb.problem ?? 'OK',
  };
}

/** Numbers, by name. */
async function metrics({ jobs, systems, clock, startedMs }: RestDeps) {
  const users = await jobs.usage();
  const sum = (key: 'total' | 'unfinished') => users.reduce((all, user) => all + user[key], 0);
  const machines = systems.list();
  return {
    'jobs.total': sum('total'),
    'jobs.unfinished': sum('unfinished'),
    'targetSystems.total': machines.length,
    'targetSystems.ready': machines.filter(isUsable).length,
    ...Object.fromEntries(
      byState(machines).map(([state, number]) => [`targetSystems.state.${state}`, number]),
    ),
    'memory.residentBytes': process.memoryUsage().rss,
    upSeconds: Math.floor((clock.now() - startedMs) / 1_000),
  };
}

/** Clients send texts; numbers and flags stand for theirs. */
const parameter = z
  .union([z.string().max(4_096), z.number(), z.boolean()], 'must be a text')
  .transform(String);
const nothing = z.null().transform(() => undefined);

const act = operation({
  method: 'POST',
  path: '/actions/:action',
  summary: 'Carries out one of the actions that the resource names',
  input: z.object({ action: z.string().max(64) }).catchall(z.union([parameter, nothing])),
  body: 'json',
  answers: answersJson(AdminOutcome),
  errors: machineErrors,
  id: 'administer',
  tag: 'admin',
  policy: adminOnly,
  run: async (deps, { action, ...members }, context) => {
    const found = Object.hasOwn(adminActions, action) ? adminActions[action] : undefined;
    if (!found) throw new RequestError('NOT_FOUND', `there is no action ${action}`);
    const parameters = Object.fromEntries(
      Object.entries(members).flatMap(([name, value]) =>
        value === undefined ? [] : [[name, value]],
      ),
    );
    try {
      requireKnown(action, found, parameters);
      const { message, results = {} } = await found.run(deps, parameters, context);
      context.log.info({ dn: context.caller.dn, action, parameters }, 'administrative action');
      return json({ success: true, message, results });
    } catch (error) {
      const known = asGridError(error);
      if (!known || known.row.http >= 500) throw error;
      return json({ success: false, message: known.message, results: {} });
    }
  },
});

export const adminOperations = [getAdmin, act, ...accountingOperations, ...hostOperations];
