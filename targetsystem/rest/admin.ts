import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { asGridError } from '#kernel/errors.js';
import { answersJson } from '#kernel/http/answers.js';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { adminOnly, operations, type Context } from '#kernel/http/operation.js';
import { json, type Reply } from '#kernel/http/reply.js';
import { accountingOperations } from './admin-accounting.js';
import { hostOperations } from './admin-hosts.js';
import { adminActions, requireKnown, type AdminAction } from './admin-actions.js';
import { Admin, AdminOutcome, type Rendered } from './answers.js';
import { machineErrors } from './answers-errors.js';
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
  const orphaned = orphans > 0 ? [`${orphans} domains or files that belong to nobody`] : [];
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
const member = z.union([parameter, nothing]);

/** Each is an operation of its own, so that its parameters are described; others are refused by name. */
const actOperations = Object.entries(adminActions).map(([name, action]) =>
  operation({
    method: 'POST',
    path: `/actions/${name}`,
    summary: action.description,
    input: z
      .object(Object.fromEntries(action.parameters.map((each) => [each, member.optional()])))
      .catchall(member),
    body: 'json',
    answers: answersJson(AdminOutcome),
    errors: machineErrors,
    id: `admin${name}`,
    tag: 'admin',
    policy: adminOnly,
    run: async (deps, members, context) => await act(name, action, members, { deps, context }),
  }),
);

async function act(
  name: string,
  action: AdminAction,
  members: Readonly<Record<string, string | undefined>>,
  { deps, context }: { readonly deps: RestDeps; readonly context: Context },
): Promise<Reply> {
  const parameters = Object.fromEntries(
    Object.entries(members).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]])),
  );
  try {
    requireKnown(name, action, parameters);
    const { message, results = {} } = await action.run(deps, parameters, context);
    const { log, caller } = context;
    log.info({ dn: caller.dn, action: name, parameters }, 'administrative action');
    return json({ success: true, message, results });
  } catch (error) {
    const known = asGridError(error);
    if (!known || known.row.http >= 500) throw error;
    return json({ success: false, message: known.message, results: {} });
  }
}

export const adminOperations = [
  getAdmin,
  ...actOperations,
  ...accountingOperations,
  ...hostOperations,
];
