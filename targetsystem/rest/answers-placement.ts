import { z } from 'zod';
import { answersCreated } from '#kernel/http/answers.js';
import { date, imageParameters, machineVolumes, offer, owned, text } from './answers.js';

/* What the factory tells of what can be had, and what becomes of a wish: our extension. */

const range = z.object({
  min: z.number().optional(),
  default: z.number().optional().describe('Absent: the image says'),
  max: z.number().optional().describe('Absent: as the image allows, or any'),
});
export const Flavour = z.object({
  name: text,
  description: text,
  default: z.boolean().describe('Whoever names none has this one'),
  cpus: range,
  memoryMiB: range,
  diskMiB: range,
  lifetimeSeconds: range,
  controls: z.record(z.string(), z.number()).describe('The most of each resource control'),
  networks: z.array(text).optional().describe('Beside none; absent: all of the site'),
  pinned: z.boolean().optional().describe('Cores of their own; absent: if they are asked for'),
});

export const DriverOffer = z
  .object({
    name: text,
    state: z.enum(['OK', 'DOWN', 'NONE']).describe('NONE: no host of this site has it'),
    description: text,
    makesMachines: z.boolean().describe('Target systems can be machines of it'),
    onOtherHosts: z.boolean().describe("Than the server's own"),
    freeze: z.boolean(),
    warmStart: z.boolean(),
    snapshots: z.boolean(),
    console: z.boolean(),
    screen: z.boolean(),
    agentChannel: z.enum(['virtio', 'socket', 'none']),
    networkFilter: z.boolean(),
    pinning: z.boolean(),
    seesHangs: z.boolean().describe('A machine that hangs is told from one that runs'),
    controls: z.enum(['all', 'cgroups', 'none']).describe('Which resource controls'),
  })
  .describe('What a driver of libvirt can do');

const amounts = { targetSystems: z.number(), cpus: z.number(), memoryMiB: z.number() };
export const Quota = z.object({
  kind: z.enum(['user', 'vo', 'group', 'site']),
  name: text.optional().describe('Absent: of the site'),
  used: z.object({ ...amounts, diskMiB: z.number() }),
  allowed: z
    .object({ ...amounts, diskMiB: z.number() })
    .partial()
    .describe('What is left out has no limit'),
});

export const Prices = z.object({
  currency: text,
  coreHour: z.number(),
  memoryGiBHour: z.number(),
  diskGiBHour: z.number(),
});

const HostAbilities = z
  .object({
    thaw: z
      .enum(['anywhere', 'there', 'none'])
      .describe('Where what is parked can be brought back'),
    ...{ snapshots: z.boolean(), console: z.boolean(), screenPictures: z.boolean() },
    ...{ liveScreens: z.boolean(), containers: z.boolean() },
    networks: z.array(text).describe('Kinds, beside none'),
    ...{ spares: z.boolean(), warmStarts: z.boolean() },
  })
  .describe('What machines can have there');

export const HostOffer = z.object({ name: text, labels: z.array(text), abilities: HostAbilities });

export const Factory = z
  .object({
    ...owned,
    ...offer,
    drivers: z.array(DriverOffer).describe('What machines can do, by driver of libvirt'),
    hostLabels: z.array(text).describe('What a wish may ask of its host'),
    hosts: z.array(HostOffer).describe('That machines may be on'),
    flavours: z.array(Flavour).describe('Sizes by name that the caller may have'),
    networks: z.array(text).describe('What of a network machines can have'),
    quota: z.array(Quota).optional().describe('That target systems of the caller count on'),
    prices: Prices.optional(),
  })
  .meta({ id: 'Factory' });

const room = { cores: z.number(), memoryMiB: z.number(), diskMiB: z.number() };
export const HostList = z.object({
  hosts: z.array(
    z.object({
      name: text,
      drivers: z
        .record(z.string(), z.enum(['OK', 'DOWN']))
        .describe('DOWN: nothing is known of it'),
      labels: z.array(text),
      drained: z.boolean().describe('It takes no new machines'),
      lost: z
        .object({ by: text, since: date })
        .optional()
        .describe('An administrator has declared that it never comes back'),
      capacity: z
        .object(room)
        .partial()
        .optional()
        .describe('For machines; what is left out has no bound. Absent: not known yet'),
      used: z.object(room).describe('What its machines hold, those on disk and unreachable too'),
      machines: z.number(),
      spares: z
        .object({ ready: z.number(), all: z.number() })
        .describe('Machines that run for the next who ask; ready: at once'),
      storage: z
        .object({
          pool: text,
          ...{ images: z.number(), usedMiB: z.number(), maxMiB: z.number() },
          problem: text.optional().describe('Why it cannot be used'),
        })
        .optional()
        .describe('Where images are copied to; absent: it shares the files of the server'),
      abilities: HostAbilities,
      capabilities: z
        .record(
          z.string(),
          z.record(
            z.string(),
            z.object({
              machines: z.array(text).describe('Boards, by their short names'),
              maxCpus: z.number().optional().describe('Of one machine'),
              display: z.boolean().describe('A machine can have one'),
              kvm: z.boolean().describe('By hardware, as libvirt says; unproven'),
            }),
          ),
        )
        .optional()
        .describe('What machines each driver can run, by architecture, as libvirt says'),
      networkProblems: z
        .record(z.string(), text)
        .optional()
        .describe('Kinds of networks that the site has, and not this host: why'),
    }),
  ),
});

const sum = {
  coreHours: z.number(),
  memoryGiBHours: z.number(),
  diskGiBHours: z.number(),
  price: z.number().optional().describe('Absent: the site has no prices'),
};
export const Plan = z
  .object({
    image: z.object({ id: text, name: text, version: text, why: text }),
    driver: text,
    host: text.describe('That it would be on now'),
    placement: text.describe('Why there'),
    tier: z
      .enum(['spare', 'warm', 'cold', 'fetch'])
      .describe('By which it would be started there now'),
    flavour: text.optional(),
    parameters: z
      .object({ cpus: z.number(), memoryMiB: z.number() })
      .catchall(z.union([z.number(), text, z.boolean()]).optional()),
    imageParameters: imageParameters.optional(),
    volumes: machineVolumes.optional(),
    terminationTime: date.optional().describe('Absent: until it is deleted, or its job is'),
    quota: z.array(Quota).describe('With it'),
    cost: z.object({
      currency: text.optional(),
      total: z
        .object({ hours: z.number(), ...sum })
        .optional()
        .describe('Of its whole life; absent: that has no end yet'),
      perHour: z.object(sum),
    }),
    expectedWait: z
      .array(
        z.object({
          tier: z.enum(['spare', 'warm', 'cold', 'fetch']),
          p50Seconds: z.number(),
          p90Seconds: z.number(),
          starts: z.number().describe('How many that is known from'),
        }),
      )
      .describe(
        'From earlier starts of the image until jobs could run; none: it has not been started',
      ),
  })
  .meta({ id: 'Plan', description: 'What would be made' });

export const answersCreatedOrPlan = {
  ...answersCreated,
  200: { body: Plan, description: 'With dryRun=true: what would be made' },
} as const;
