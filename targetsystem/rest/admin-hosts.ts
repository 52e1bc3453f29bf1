import { z } from 'zod';
import { formatDate } from '#kernel/clock.js';
import { answersJson } from '#kernel/http/answers.js';
import { adminOnly, operations } from '#kernel/http/operation.js';
import { json } from '#kernel/http/reply.js';
import type { HostStatus } from '#xnjs/index.js';
import type { Rendered } from './answers.js';
import { HostList } from './answers-placement.js';
import type { RestDeps } from './deps.js';

const operation = operations<RestDeps>();

const listHosts = operation({
  method: 'GET',
  path: '/hosts',
  summary: 'The hosts that machines run on: their state, what they have and what is used of it',
  input: z.object({}),
  answers: answersJson(HostList),
  id: 'listHosts',
  tag: 'admin',
  policy: adminOnly,
  run: ({ systems }) => json({ hosts: systems.places.list().map(renderHost) }),
});

export function renderAbilities(
  abilities: HostStatus['abilities'],
): Rendered<typeof HostList>['hosts'][number]['abilities'] {
  return { ...abilities, networks: [...abilities.networks] };
}

type Runnable = NonNullable<Rendered<typeof HostList>['hosts'][number]['capabilities']>[string];

function renderRunnable(found: NonNullable<HostStatus['capabilities']['qemu']>): Runnable {
  return Object.fromEntries(
    Object.entries(found).map(([name, { machines, ...rest }]) => [
      name,
      { machines: [...machines], ...rest },
    ]),
  );
}

export function renderHost(host: HostStatus): Rendered<typeof HostList>['hosts'][number] {
  const { name, drivers, labels, isDrained, loss, room, used, machines, spares, storage } = host;
  const problems = Object.entries(host.networkProblems);
  return {
    ...{ name, labels: [...labels], drained: isDrained, machines },
    ...(loss && { lost: { by: loss.by, since: formatDate(loss.atMs) } }),
    drivers: Object.fromEntries(
      drivers.map((driver) => [driver.name, driver.isUp ? ('OK' as const) : ('DOWN' as const)]),
    ),
    ...(room && { capacity: room }),
    used,
    ...(storage && { storage }),
    ...{ spares, abilities: renderAbilities(host.abilities) },
    ...(Object.keys(host.capabilities).length > 0 && {
      capabilities: Object.fromEntries(
        Object.entries(host.capabilities).map(([driver, found]) => [driver, renderRunnable(found)]),
      ),
    }),
    ...(problems.length > 0 && { networkProblems: Object.fromEntries(problems) }),
  };
}

export const hostOperations = [listHosts];
