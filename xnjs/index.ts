/** The door of the execution engine: what the faces of the server may use. */
export { XnjsConfig } from './config.js';
export { startXnjs, type Xnjs } from './main.js';
export type { JobChange } from './changes/job-change.js';
export type { LoggedImage } from './changes/image-follower.js';
export type { SiteChange } from './changes/site-change.js';
export { JobEngine } from './job/engine.js';
export type { RawDescription } from './job/description.js';
export { parseJsdl, readJobDefinition, type JsdlJob } from './jsdl/parse-jsdl.js';
export type { ClientTransfer } from './data/client-transfers.js';
export type { DataServices } from './data/data-services.js';
export { refuseDepth } from './data/extract.js';
export type { OwnedRecord, OwnedRecords } from './data/owned-records.js';
export { principalOf } from './data/principal.js';
export { shownRemote, type ServerTransfer } from './data/server-transfer.js';
export { isSharedBy, type Share } from './data/shares.js';
export type { Task, TaskWork } from './data/tasks.js';
export type { Job } from './job/job.js';
export type { JobSubmission } from './job/job-submission.js';
export { consumedTime, jobStatus } from './job/status.js';
export type { FileInfo, FileSpace } from './files/file-space.js';
export type { StorageType } from './storage/config.js';
export {
  moveWithMetadata,
  parseMetadata,
  readMetadata,
  removeWithMetadata,
  searchFiles,
  writeMetadata,
} from './storage/metadata.js';
export { parametersOf } from './storage/new-storage.js';
export type { Reservation } from './reservation/reservation.js';
export type { Reservations } from './reservation/reservations.js';
export type { Storage } from './storage/storage.js';
export { Storages, type StorageChange } from './storage/storages.js';
export type { AclEntry } from './tsi/tsi.js';
export type { Snapshot } from './vm/snapshots/snapshot.js';
export { newImage, type SavedImages } from './vm/snapshots/saved-images.js';
export type { Volume } from './vm/volumes/volume.js';
export { readVolumes, volumeName, volumeSizeMiB } from './vm/volumes/volume-wish.js';
export type { Usage, UsageOfOwner } from './vm/usage.js';
export type { TargetSystems } from './vm/target-systems.js';
export { isUsable } from './vm/state.js';
export { startsOf } from './vm/later-starts.js';
export { resourceStatusOf, toResourceStatus } from './vm/resource-status.js';
export { endActions, idbSubject, recoveries, type TargetSystem } from './vm/target-system.js';
export { parseImageWish, readFlavour, readImageWish } from './vm/image-wish.js';
export { driverAbilities, type DriverAbilities } from './vm/hosts/driver-abilities.js';
export type { HostStatus } from './vm/hosts/host-placement.js';
export { parseHostLabels } from './vm/hosts/labels.js';
export type { Cost, Prices } from './vm/placement/cost.js';
export type { OfferedFlavour, Range } from './vm/placement/flavours.js';
export type { Estimate, QuotaUse } from './vm/placement/planner.js';
export type { Requester } from './vm/placement/requester.js';
export type { JobMachines } from './vm/job-machines.js';
export {
  joinSizes,
  readMachineSize,
  readParameterChange,
  type MachineSize,
} from './vm/machine-size.js';
export { readImageParameters } from './vm/image-parameters.js';
export { readOwnContext } from './vm/context/own-context.js';
export type { IdbApplication, IdbResource } from '#imagerepo/contract.js';
export type { Idb } from './idb/idb.js';
export type { IdbSource } from './idb/idb-source.js';
