import { z } from 'zod';
import { ImageMetadata } from '#imagerepo/contract.js';
import { element, toXml, type XmlNode } from '#kernel/xml/build.js';
import { parseXml } from '#kernel/xml/parse.js';
import { attributeOf, childrenOf, textOf } from '#kernel/xml/read.js';
import { drivers, type MachineSpec, type TargetSystem } from './target-system.js';

/** Marks the domains of one installation (libvirt domain metadata). */
export const metadataNamespace = 'urn:vsite:domain:1';

/** What a domain carries of where it belongs. */
export type DomainMark = {
  readonly installation: string;
  readonly owner: string;
  /** Of the server that wrote it: a newer one has a higher one. */
  readonly epoch: number;
  /** Counts the domains that one target system has had. */
  readonly generation: number;
  /** What its target system was, should the database have lost it; absent where that cannot be read. */
  readonly record?: MarkedRecord;
};

/** What cannot be learnt from the domain itself. */
const MarkedRecord = z.object({
  id: z.uuid(),
  ownerDn: z.string(),
  image: z.object({
    id: z.string(),
    metadata: ImageMetadata,
    parts: z.record(z.string(), z.any()),
  }),
  parameters: z.looseObject({ cpus: z.number(), memoryMiB: z.number() }),
  driver: z.enum(drivers),
  host: z.string().optional(),
  tags: z.array(z.string()),
  jobId: z.string().optional(),
  acl: z.array(z.string()).optional(),
  createdMs: z.number(),
  terminationMs: z.number().optional(),
  generation: z.number().optional(),
  flavour: z.string().optional(),
  limits: z.record(z.string(), z.number()).optional(),
  countsFor: z.object({ vo: z.string().optional(), group: z.string().optional() }).optional(),
  cores: z.array(z.int()).optional(),
  card: z.looseObject({ kind: z.string(), mac: z.string() }).optional(),
  volumes: z
    .array(z.looseObject({ name: z.string(), sizeMiB: z.number(), path: z.string() }))
    .optional(),
  agentDisks: z.array(z.string()).optional(),
  imageParameters: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).optional(),
});
export type MarkedRecord = Partial<Pick<TargetSystem, 'host'>> &
  Pick<
    TargetSystem,
    | 'id'
    | 'ownerDn'
    | 'image'
    | 'parameters'
    | 'driver'
    | 'tags'
    | 'jobId'
    | 'acl'
    | 'createdMs'
    | 'terminationMs'
    | 'generation'
    | 'flavour'
    | 'limits'
    | 'countsFor'
    | 'card'
    | 'cores'
    | 'imageParameters'
    | 'volumes'
    | 'agentDisks'
  >;

/** @param prefix of the namespace; without one, libvirt adds it */
export function markElement(
  system: TargetSystem | MachineSpec,
  installation: string,
  epoch: number,
  prefix: 'vsite:' | '' = 'vsite:',
): XmlNode {
  const xmlns = prefix !== '' && { 'xmlns:vsite': metadataNamespace };
  // nobody's: nothing to adopt
  if (!('ownerDn' in system))
    return element(`${prefix}domain`, { ...xmlns, installation, owner: '', epoch, generation: 1 });
  const { id, ownerDn, image, parameters, driver, host, tags, jobId, acl } = system;
  const { createdMs, terminationMs, generation = 1, flavour, limits, countsFor, card } = system;
  const { cores, imageParameters, volumes, agentDisks } = system;
  const record: MarkedRecord = {
    ...{ id, ownerDn, image, parameters, driver, host, tags, createdMs, generation },
    ...(jobId !== undefined && { jobId }),
    ...(acl && { acl }),
    ...(terminationMs !== undefined && { terminationMs }),
    ...(flavour !== undefined && { flavour }),
    ...(limits && { limits }),
    ...(countsFor && { countsFor }),
    ...(card && { card }),
    ...(cores && { cores }),
    ...(imageParameters && { imageParameters }),
    ...(volumes && { volumes }),
    ...(agentDisks && { agentDisks }),
  };
  // not every character of a name or a tag is one of XML
  const owner = ownerDn.replace(/\p{C}/gu, '?');
  const content = Buffer.from(JSON.stringify(record)).toString('base64');
  return element(
    `${prefix}domain`,
    {
      ...xmlns,
      ...{ installation, owner, epoch, generation },
    },
    element(`${prefix}record`, {}, content),
  );
}

/** As `domain_set_metadata` takes it. */
export function markXml(system: TargetSystem, installation: string, epoch: number): string {
  return toXml(markElement(system, installation, epoch, ''));
}

/** @returns `undefined` for what is no mark; a mark of an earlier version has an installation only */
export function readMark(metadata: string): DomainMark | undefined {
  try {
    return markOf(parseXml(metadata).documentElement);
  } catch {
    return undefined;
  }
}

/** The same from the definition of a domain. */
export function readMarkOfDomain(definition: string): DomainMark | undefined {
  try {
    const all = childrenOf(parseXml(definition).documentElement)
      .filter(({ localName }) => localName === 'metadata')
      .flatMap((metadata) => childrenOf(metadata));
    const mark = all.find(({ namespaceURI }) => namespaceURI === metadataNamespace);
    return mark && markOf(mark);
  } catch {
    return undefined;
  }
}

function markOf(root: Element): DomainMark | undefined {
  const installation = attributeOf(root, 'installation');
  if (installation === undefined) return undefined;
  const record = childrenOf(root).find(({ localName }) => localName === 'record');
  const read = record && MarkedRecord.safeParse(parseContent(textOf(record)));
  return {
    installation,
    owner: attributeOf(root, 'owner') ?? '',
    epoch: Number(attributeOf(root, 'epoch') ?? 0),
    generation: Number(attributeOf(root, 'generation') ?? 1),
    ...(read?.success && { record: read.data as MarkedRecord }), // what `markElement` has written
  };
}

function parseContent(base64: string): unknown {
  try {
    return JSON.parse(Buffer.from(base64, 'base64').toString()) as unknown;
  } catch {
    return undefined;
  }
}
