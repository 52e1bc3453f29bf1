import { z } from 'zod';
import { RequestError, type Context } from '#kernel/http/operation.js';
import { created, type Reply } from '#kernel/http/reply.js';
import { joinSizes, readMachineSize, type MachineSize } from '#xnjs/index.js';
import type { RestDeps } from './deps.js';
import { linksFrom } from './links.js';
import { checkTermination, dateText, tagList } from './properties.js';

const image = z.string().min(1).max(256).optional();
const values = z.record(z.string().max(256), z.unknown());
/** UCC sends `parameters: {}` and no image; the image may also be one of the parameters. */
export const newSite = {
  image,
  parameters: values.and(z.object({ image })).default({}),
  /** As a job would ask for them: `CPUs`, `Memory`, … */
  resources: values.default({}),
  terminationTime: dateText.optional(),
  tags: tagList.default([]),
};

export async function createSite(
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
  if (ms !== undefined) checkTermination(ms, latestTerminationOf(deps));
  return ms;
}

/** The latest that a target system may live to. */
export function latestTerminationOf({ systems, clock }: RestDeps): number {
  return clock.now() + (systems.limits.maxLifetimeSeconds ?? Number.POSITIVE_INFINITY) * 1_000;
}
