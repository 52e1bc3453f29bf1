import type { Clock } from '#kernel/clock.js';
import type { TokenIssuer } from '#kernel/security/tokens.js';
import type {
  DataServices,
  IdbSource,
  JobEngine,
  JobMachines,
  JobSubmission,
  Reservations,
  SavedImages,
  Storages,
  TargetSystems,
} from '#xnjs/index.js';
import type { Registry } from '../registry/open-registry.js';
import type { CarriedConnections } from './carried-connections.js';
import type { Consoles } from './consoles.js';
import type { EventStreams } from './event-streams.js';

/** What the REST operations of this service work with. */
export type RestDeps = {
  readonly siteName: string;
  readonly version: string;
  readonly startedMs: number;
  readonly clock: Clock;
  readonly systems: TargetSystems;
  readonly jobs: JobEngine;
  /** For jobs that name an image. */
  readonly machines: JobMachines;
  /** Whether jobs are taken. */
  readonly submission: JobSubmission;
  readonly reservations: Reservations;
  readonly registry: Registry;
  readonly storages: Storages;
  readonly data: DataServices;
  /** Machines as images. */
  readonly savedImages: Pick<SavedImages, 'check'>;
  readonly events: EventStreams;
  readonly consoles: Consoles;
  readonly forwardings: CarriedConnections;
  readonly screens: CarriedConnections;
  readonly idb: Pick<IdbSource, 'of' | 'problem'>;
  /** Where people find images: the image repository's list, seen from outside. */
  readonly imagesUrl: (baseUrl: string) => string;
  /** Name to `OK` or `DOWN`, of what this server depends on. */
  readonly connections: () => Record<string, 'OK' | 'DOWN' | 'UNKNOWN'>;
  /** Image for jobs of users who have no target system yet; absent: such jobs are refused. */
  readonly defaultImage?: string | undefined;
  /** Signs delegation tokens in the server's name. */
  readonly issueToken: TokenIssuer;
  /** Own certificate, for the base resource and the registry. */
  readonly credential: {
    readonly dn: string;
    readonly issuer: string;
    readonly expiresMs: number;
    readonly pem: string;
  };
};
