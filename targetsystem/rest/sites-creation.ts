import { z } from 'zod';
import { RequestError, type Context } from '#kernel/http/operation.js';
import { created, json, type Reply } from '#kernel/http/reply.js';
import {
  joinSizes,
  parseHostLabels,
  parseImageWish,
  readImageParameters,
  readMachineSize,
  readOwnContext,
  readVolumes,
  type TargetSystem,
} from '#xnjs/index.js';
import type { RestDeps } from './deps.js';
import { linksFrom } from './links.js';
import { dryRun, renderPlan, requesterOf } from './placement.js';
import { dateText, tagList } from './properties.js';
import { newEnds, readEnds } from './sites-ends.js';

const image = z
  .union([z.string().min(1).max(256), z.looseObject({})], 'must be an image, or what it must have')
  .optional();
const flavour = z.string().min(1).max(64).optional();
const values = z.record(z.string().max(256), z.unknown());
/** A label, or a list of them. */
const hostLabels = z.unknown().optional();
/** Values for what the image's metadata declare, by name. */
const imageParameters = z.unknown().optional();
/** A list of disks of its own. */
const volumes = z.unknown().optional();
/** UCC sends `parameters: {}` and no image; the others may also be among the parameters. */
export const newSite = {
  /** Id, name or `name:version`; or what it must have, as jobs say it. */
  image,
  /** A size by name. */
  flavour,
  /** What the host must have. */
  hostLabels,
  imageParameters,
  volumes,
  parameters: values
    .and(z.object({ image, flavour, hostLabels, imageParameters, volumes }))
    .default({}),
  /** As a job would ask for them: `CPUs`, `Memory`, … */
  resources: values.default({}),
  terminationTime: dateText.optional(),
  tags: tagList.default([]),
  ...newEnds,
  dryRun,
};

export async function createSite(
  deps: RestDeps,
  input: z.output<z.ZodObject<typeof newSite>>,
  { caller, baseUrl }: Context,
): Promise<Reply> {
  const { systems, defaultImage } = deps;
  const { image: otherImage, flavour: otherFlavour, ...others } = input.parameters;
  const { sshKeys, userData, hostLabels: otherLabels, ...rest } = others;
  const { imageParameters: otherValues, volumes: otherVolumes, ...parameters } = rest;
  const context = readOwnContext('parameters', { sshKeys, userData });
  const image = input.image ?? otherImage ?? defaultImage;
  if (image === undefined)
    throw new RequestError('BAD_REQUEST', 'image: name the image to make a target system from');
  const chosenFlavour = input.flavour ?? otherFlavour;
  const wish = {
    ownerDn: caller.dn,
    requester: requesterOf(caller),
    image: parseImageWish('image', image),
    parameters: joinSizes(
      readMachineSize('parameters', parameters, 'refuse'),
      readMachineSize('resources', input.resources, 'refuse'),
    ),
    imageParameters:
      readImageParameters('imageParameters', input.imageParameters) ??
      readImageParameters('parameters.imageParameters', otherValues),
    volumes:
      readVolumes('volumes', input.volumes) ?? readVolumes('parameters.volumes', otherVolumes),
    tags: input.tags,
    ends: readEnds(systems, input),
    ...(context && { context }),
    hostLabels:
      parseHostLabels('hostLabels', input.hostLabels) ??
      parseHostLabels('parameters.hostLabels', otherLabels),
    ...(chosenFlavour !== undefined && { flavour: chosenFlavour }),
    ...(input.terminationTime !== undefined && { terminationMs: input.terminationTime }),
  };
  const { planner } = systems;
  if (input.dryRun) return json(renderPlan(await planner.estimate(wish), planner.prices?.currency));
  const { id } = await systems.create(wish);
  return created(linksFrom(baseUrl).site(id));
}

/** The latest that a target system may live to. */
export function latestTerminationOf(
  { systems, clock }: RestDeps,
  { limits }: Pick<TargetSystem, 'limits'>,
): number {
  const seconds = limits?.maxLifetimeSeconds ?? systems.limits.maxLifetimeSeconds ?? Infinity;
  return clock.now() + seconds * 1_000;
}
