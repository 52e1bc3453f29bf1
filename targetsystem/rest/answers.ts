import { z } from 'zod';
import { startReasons } from '#xnjs/contract.js';

/*
 * What this service answers, as schemas: for the API document and for typed clients. Every member of
 * UNICORE's REST interface is spelt as there, numbers as text included.
 */

const Link = z
  .object({ href: z.string(), description: z.string().optional() })
  .meta({ id: 'Link', description: 'Where something lies' });
export const links = z
  .record(z.string(), Link)
  .describe('By what they lead to; action:… takes a POST');
export const date = z.string().describe('such as 2026-06-17T14:54:15+0200');
export const text = z.string();
export const texts = z.array(z.string());
const anything = z.record(z.string(), z.unknown());
/** DISABLED: paused or suspended. */
const resourceStatus = z.enum(['INITIALIZING', 'READY', 'DISABLED', 'ERROR', 'SHUTTING_DOWN']);

export const page = {
  _links: z
    .object({ self: Link, next: Link.optional(), previous: Link.optional() })
    .describe('Further pages, if there are'),
};
export const urls = z.array(z.string()).describe('Addresses');
export const JobList = z.object({ jobs: urls, ...page });
export const SiteList = z.object({ sites: urls, ...page });
export const FactoryList = z.object({ factories: urls, ...page });
export const StorageList = z.object({ storages: urls, ...page });
export const StorageFactoryList = z.object({ storagefactories: urls, ...page });

type Fixed<T> = T extends object ? { readonly [Name in keyof T]: Fixed<T[Name]> } : T;
/** What a renderer makes of a resource, by the schema that clients read it with. */
export type Rendered<Schema extends z.ZodType> = Fixed<z.output<Schema>>;
/** The same without what `ownedProperties` adds. */
export type RenderedBeside<Schema extends z.ZodType> = Omit<
  Rendered<Schema>,
  Exclude<keyof typeof owned, '_links'>
>;

/** What everything that has an owner shows. */
export const owned = {
  owner: text.describe('Distinguished name'),
  acl: texts.describe('Who else may do what: op:TYPE:value'),
  tags: texts,
  terminationTime: date.optional().describe('Absent: lives until deleted'),
  _links: links,
};

export const Client = z
  .object({
    dn: text,
    role: z.object({ selected: text, availableRoles: texts }),
    xlogin: z.object({
      UID: text.optional(),
      group: text.optional(),
      availableUIDs: texts,
      availableGroups: texts,
      selectedSupplementaryGroups: texts,
    }),
    queues: z
      .object({ selected: text.optional(), availableQueues: texts })
      .optional()
      .describe('Absent: all'),
    authenticationMethod: text.optional(),
  })
  .meta({ id: 'Client', description: 'Who the caller is to this server' });

export const Server = z
  .object({
    siteName: text,
    version: text,
    upSince: date,
    currentTime: date,
    credential: z.object({ dn: text, issuer: text, expires: date }),
    trustedCAs: texts,
    trustedSAMLIssuers: texts,
    externalConnections: z.record(z.string(), text),
    jobSubmission: z.object({ enabled: z.boolean(), message: text }),
    idb: text.optional().describe('For administrators: what is wrong with the IDB, or OK'),
  })
  .meta({ id: 'Server', description: 'What this server is' });

export const Base = z.object({ client: Client, server: Server, _links: links });

export const RegistryList = z.object({
  registries: urls,
  client: Client,
  server: Server,
  _links: links,
});
const service = {
  href: text,
  type: text,
  InterfaceNamespace: text.optional(),
  ServerIdentity: text.optional(),
  ServerPublicKey: text.optional(),
};
export const Service = z.object(service);
export const Registry = z.object({ ...owned, entries: z.array(Service) });

export const RegistryEntry = z
  .object({ ...owned, ...service })
  .meta({ id: 'RegistryEntry', description: 'A service that another server has told of' });

export const Admin = z.object({
  upSince: date,
  containerVersion: text,
  connectionStatus: z.record(z.string(), text),
  subSystemsStatus: z.record(z.string(), text),
  metrics: z.record(z.string(), z.number()),
  _links: links,
});
export const AdminOutcome = z.object({
  success: z.boolean(),
  message: text,
  results: anything,
});

/** What jobs may ask for and run. */
export const offer = {
  siteName: text,
  supportsReservation: text,
  resources: z
    .record(z.string(), z.record(z.string(), z.union([text, texts])))
    .describe('By partition and resource: lo-hi, a choice, or * for any text'),
  applications: texts.describe('Name---vVersion'),
  otherInfo: anything,
  remainingComputeTime: z
    .record(z.string(), z.object({ remaining: text, units: text, rel: text.optional() }))
    .describe('By project, where the batch system limits it'),
};

export const Usage = z.object({
  cpuSeconds: z.number(),
  wallClockSeconds: z.number().describe('Since it was started, to its end'),
  memoryPeakMiB: z.number().describe('The most that its machine had of the host'),
  memoryMiB: z.number().optional().describe('What the guest has been given at present'),
  diskReadBytes: z.number(),
  diskWrittenBytes: z.number(),
  networkReceivedBytes: z.number(),
  networkSentBytes: z.number(),
  measured: date,
});
export const Account = z.object({
  ...{ targetSystem: text, owner: text, image: text, started: date },
  ended: date.optional().describe('Absent: it runs'),
  ...Usage.shape,
});
export const Accounting = z.object({ accounting: z.array(Account), total: z.number() });

export const machineVolumes = z
  .array(
    z.object({
      name: text.describe("In the machine: its disk's serial"),
      sizeMiB: z.number(),
      path: text.describe('Where it is to be mounted'),
      volume: text.optional().describe('Its id, of one that outlives the target system'),
    }),
  )
  .describe('Disks of its own');

/** Of a machine: what its owner has decided about it, and defaults. */
export const imageParameters = z
  .record(z.string(), z.union([z.string(), z.number(), z.boolean()]))
  .describe("Values for the parameters that the image's metadata declare");

const marks = z.record(z.string(), z.number()).describe('Of a start, in ms since it was asked for');

export const Site = z
  .object({
    ...owned,
    ...offer,
    resourceStatus,
    resourceStatusMessage: text,
    umask: text,
    numberOfJobs: z.number(),
    image: z.object({
      ...{ id: text, name: text, version: text, os: anything },
      why: text.optional().describe('It was chosen'),
      digests: z.record(z.string(), text).describe('By part: sha256:…'),
    }),
    parameters: z
      .object({ cpus: z.number(), memoryMiB: z.number() })
      .catchall(z.union([z.number(), text, z.boolean()]).optional())
      .describe(
        'What the machine has; memoryMaxMiB, network, pinned and its resource controls if there are',
      ),
    imageParameters: imageParameters.optional(),
    volumes: machineVolumes.optional(),
    start: z
      .object({ tier: z.enum(['spare', 'warm', 'cold', 'fetch']), reason: text })
      .optional()
      .describe('How it came by its machine, and why so'),
    flavour: text.optional().describe('The size by name that it was asked for'),
    countsFor: z
      .object({ vo: text.optional(), group: text.optional() })
      .describe("On whose quota, beside its owner's and the site's"),
    usage: Usage.optional().describe('As measured; absent: not yet'),
    vm: z
      .object({
        state: text,
        driver: text,
        host: text.describe('That it is on'),
        placement: text.optional().describe('Why there'),
        cores: z.array(z.number()).optional().describe('Of its host, that it has for itself'),
        transport: text.describe('How its TSI is reached'),
        addresses: texts.describe('In its network, as far as they are known'),
        evidence: z
          .object({ source: text, fact: text, at: date })
          .describe('Why the state is believed'),
        views: z
          .array(z.object({ source: text, says: text, fact: text, since: date, confirmed: date }))
          .optional()
          .describe('What each source says, since when, and when it was last heard to'),
        boot: marks.describe('Of its last start that was no return from saved memory'),
        starts: z
          .array(
            z.object({
              what: z.enum(startReasons),
              tier: z.enum(['spare', 'warm', 'cold', 'fetch', 'saved']).optional(),
              ...{ reason: text.optional(), at: date, marks },
            }),
          )
          .describe('Its last starts, the oldest first: why, how, when it was asked for, how far'),
        recovery: text.describe('What is done when it stops by itself: none, restart or restore'),
        generation: z.number().describe('Counts the machines that it has had'),
        endAction: text.describe('What is done when its life time is over: destroy or freeze'),
        idle: z
          .object({ seconds: z.number().optional(), action: text.optional() })
          .optional()
          .describe('When nobody uses it; what is left out is as the site says'),
        undertaking: text
          .optional()
          .describe('What is being done with it: snapshot or revert; absent: nothing'),
        unappliedParameters: texts
          .optional()
          .describe('Changed, and not confirmed by the hypervisor yet'),
        setup: z
          .object({
            problem: text.optional(),
            volumes: z
              .array(
                z.object({
                  name: text,
                  device: text.optional(),
                  path: text.optional().describe('Where it is mounted; absent: it is not'),
                  problem: text.optional(),
                }),
              )
              .optional(),
          })
          .optional()
          .describe(
            'What came of giving it its parameters and volumes; absent: it was not told yet',
          ),
        guest: z.unknown().optional().describe('What the machine says of itself'),
      })
      .describe('The machine'),
  })
  .meta({ id: 'Site', description: 'A target system' });

export const ReservationList = z.object({ reservations: urls, ...page });
export const Reservation = z
  .object({
    ...owned,
    status: text,
    statusMessage: text,
    reservationID: text.describe('What jobs name it by, or N/A'),
    resources: z.record(z.string(), text),
    startTime: text,
  })
  .meta({ id: 'Reservation' });
export const ReservationDetails = z.object({
  status: text,
  start: text.optional(),
  rawDetailsData: text.describe('As the batch system says it'),
});

export const ApplicationList = z.object({ applications: texts });
export const Application = z
  .object({
    ApplicationName: text,
    ApplicationVersion: text,
    ApplicationDescription: text,
    Options: z.record(z.string(), anything),
  })
  .meta({ id: 'Application' });

export const jobStatuses = [
  'UNDEFINED',
  'READY',
  'STAGINGIN',
  'QUEUED',
  'RUNNING',
  'STAGINGOUT',
  'SUCCESSFUL',
  'FAILED',
] as const;

export const Job = z
  .object({
    ...owned,
    name: text,
    jobType: text,
    status: z.enum(jobStatuses),
    statusMessage: text.describe('Why it failed'),
    exitCode: text.optional().describe('Absent until it is known'),
    progress: text.optional().describe('As the job tells it; absent: it does not'),
    submissionTime: date,
    queue: text,
    batchSystemID: text,
    consumedTime: z.record(z.string(), text).describe('By phase, in seconds, or N/A'),
    submissionPreferences: z.record(z.string(), texts),
    log: texts.describe('What happened to it'),
  })
  .meta({ id: 'Job' });
export const JobDetails = anything.describe('As the batch system says it');
export const JobDescription = anything.describe('As it was submitted, without inline data');

const size = z.union([z.number(), z.string()]).optional();
export const Storage = z
  .object({
    ...owned,
    description: text,
    protocols: texts,
    umask: text,
    metadataSupported: z.boolean(),
    filesystemDescription: text,
    resourceStatus,
    resourceStatusMessage: text,
    mountPoint: text.optional(),
    freeSpace: size,
    usableSpace: size,
  })
  .meta({ id: 'Storage' });

const parameters = z.record(z.string(), text);
export const StorageFactory = z
  .object({
    ...owned,
    description: text.optional(),
    parameters: parameters.optional(),
    storageDescriptions: z
      .record(z.string(), z.object({ description: text, parameters }))
      .optional()
      .describe('Of the factory for all types: by type'),
  })
  .meta({ id: 'StorageFactory' });

export const SearchAnswer = z.object({
  status: text,
  query: text,
  numberOfResults: z.number(),
  complete: z.boolean().describe('false: there are more'),
  _links: links,
});

const entry = {
  isDirectory: z.boolean(),
  size: z.number(),
  lastAccessed: date.describe('When it was changed last'),
  owner: text.optional(),
  group: text.optional(),
  permissions: text.describe('rwxr-x---'),
};
export const FileEntry = z.object(entry).meta({ id: 'FileEntry' });
export const File = z
  .object({
    ...entry,
    metadata: anything,
    acl: texts.optional().describe('With acl=true'),
    content: z
      .record(z.string(), FileEntry)
      .optional()
      .describe('Of a directory: by path from the root of the storage'),
    _links: links,
  })
  .meta({ id: 'File' });

/** `PUT` of properties: each member answers for itself. */
export const Changes = z.record(z.string(), text).describe('By member: OK, or why not');
