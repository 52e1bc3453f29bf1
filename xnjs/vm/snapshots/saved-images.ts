import { z } from 'zod';
import { ImageMetadata } from '#imagerepo/contract.js';
import { formatDate, type Clock } from '#kernel/clock.js';
import { asGridError, errorText, GridError } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import type { ImagePublisher } from '../image-publisher.js';
import type { ImageSource } from '../image-source.js';
import { isGone, isUsable } from '../state.js';
import type { TargetSystem } from '../target-system.js';
import type { TargetSystems } from '../target-systems.js';
import type { Snapshot } from './snapshot.js';
import { hasDisk, type SnapshotFiles } from './snapshot-files.js';

/** What a user says of the image that is to be made of a machine; the rest is as in the one it came from. */
export const newImage = z.object({
  version: ImageMetadata.shape.version,
  name: ImageMetadata.shape.name.optional(),
  description: ImageMetadata.shape.description.unwrap().optional(),
  visibility: ImageMetadata.shape.visibility.unwrap().default('private'),
  /** Absent: one is taken for it, and forgotten afterwards. */
  snapshot: z.string().max(64).optional(),
});
export type NewImage = z.output<typeof newImage>;

export type SavedImagesOptions = {
  readonly systems: Pick<TargetSystems, 'get' | 'find' | 'snapshots'>;
  readonly filesOf: (system: TargetSystem) => SnapshotFiles;
  readonly images: Pick<ImageSource, 'find'>;
  readonly publisher: ImagePublisher;
  readonly clock: Clock;
  readonly log: Log;
};

export type Saving = {
  /** The same whenever this is begun again. */
  readonly taskId: string;
  readonly siteId: string;
  readonly image: NewImage;
  readonly callerDn: string;
};
type Progress = (text: string) => Promise<unknown>;

const syncMs = 30_000;
const lookMs = 500;

/**
 * Makes images of machines: a snapshot's disk, without what it is based on, published in the caller's name. Each
 * step may be repeated; snapshot and image are found again by the task's id.
 */
export class SavedImages {
  readonly #options: SavedImagesOptions;

  constructor(options: SavedImagesOptions) {
    this.#options = options;
  }

  /**
   * @throws `CONFLICT` the machine has no disk, or is gone; `FORBIDDEN` the image that it was made from is not
   * the caller's to pass on; `NOT_FOUND` there is no such snapshot
   */
  async check(siteId: string, image: NewImage, callerDn: string): Promise<void> {
    const { systems, images } = this.#options;
    const system = systems.get(siteId);
    if (!hasDisk(system))
      throw conflict(
        siteId,
        `its image has no disk (format ${system.image.metadata.format}): there is nothing that could be saved`,
      );
    if (image.snapshot !== undefined) systems.snapshots.get(siteId, image.snapshot);
    else if (system.state !== 'FAILED' && isGone(system))
      throw conflict(siteId, 'the machine is about to be gone');
    const { id, metadata } = system.image;
    const parent = await images.find(id, callerDn).catch((error: unknown) => {
      if (asGridError(error)?.code !== 'IMAGE_UNKNOWN') throw error;
      const text = `the image ${metadata.name}:${metadata.version}, which it is made from, may not be used by you any more`;
      throw new GridError('FORBIDDEN', text, { imageId: id });
    });
    if (image.visibility === 'public' && parent.metadata.visibility !== 'public')
      throw new GridError(
        'FORBIDDEN',
        'visibility: must be private, as of the image that it is made from',
        { imageId: id },
      );
  }

  /** @returns the image's id */
  async save(saving: Saving, tell: Progress, signal: AbortSignal): Promise<string> {
    const { callerDn, taskId } = saving;
    try {
      const made = await this.#options.publisher.findBy(taskId, callerDn, signal);
      const isMade = made?.state === 'PUBLISHED';
      const id = isMade ? made.id : await this.#make(saving, made?.id, tell, signal);
      await this.#forget(saving);
      return id;
    } catch (error) {
      // one that is tried again is of the same moment
      const why = asGridError(signal.aborted ? signal.reason : error);
      if (why?.row.retry !== true) await this.#forget(saving);
      throw error;
    }
  }

  /** @param draft one that was created before, and is not published */
  async #make(
    saving: Saving,
    draft: string | undefined,
    tell: Progress,
    signal: AbortSignal,
  ): Promise<string> {
    const { siteId, image, callerDn, taskId } = saving;
    const { systems, publisher, log } = this.#options;
    await this.check(siteId, image, callerDn);
    const system = systems.get(siteId);
    const snapshot = await this.#snapshotFor(saving, tell, signal);
    const files = this.#options.filesOf(system);
    await files.requireRoom(system, await files.flatMiB(system, snapshot.id)).catch(asFinal);
    await using disk = await files.flatten(system, snapshot.id, { taskId, tell, signal });
    await tell('the image is being uploaded');
    const metadata = metadataOf(system, snapshot, saving);
    const id = draft ?? (await publisher.create(metadata, callerDn, signal).catch(asFinal));
    await publisher.publish({ id, callerDn, disk }, signal).catch(asFinal);
    log.info({ vmId: siteId, imageId: id, dn: callerDn }, 'a machine was saved as image');
    return id;
  }

  /** One that was taken for this is of no use any more. */
  async #forget({ siteId, taskId }: Saving): Promise<void> {
    const { systems, log } = this.#options;
    try {
      await systems.snapshots.remove(siteId, taskId);
    } catch (error) {
      if (asGridError(error)?.code !== 'NOT_FOUND')
        log.warn({ vmId: siteId, err: error }, 'a snapshot for an image was not forgotten');
    }
  }

  async #snapshotFor(
    { siteId, image, taskId }: Saving,
    tell: Progress,
    signal: AbortSignal,
  ): Promise<Snapshot> {
    const { systems, clock } = this.#options;
    const id = image.snapshot ?? taskId;
    if (!systems.snapshots.list(siteId).some((each) => each.id === id)) {
      await tell('a snapshot is being taken');
      await this.#flush(siteId, signal);
      await systems.snapshots.take(siteId, `for image ${image.version}`, taskId).catch(asFinal);
    }
    for (;;) {
      const snapshot = systems.snapshots.get(siteId, id);
      if (snapshot.state === 'READY') return snapshot;
      if (snapshot.state === 'FAILED')
        throw conflict(siteId, snapshot.message ?? 'the snapshot failed');
      await clock.sleep(lookMs, signal);
    }
  }

  /** What the guest has written and still holds in its memory goes to its disk, as far as it answers. */
  async #flush(siteId: string, signal: AbortSignal): Promise<void> {
    const { systems, log } = this.#options;
    const target = systems.find(siteId);
    if (!target || !isUsable(systems.get(siteId))) return;
    const until = AbortSignal.any([signal, AbortSignal.timeout(syncMs)]);
    try {
      await target.tsi().execute(target.identity, 'sync', { signal: until });
    } catch (error) {
      log.info({ vmId: siteId, err: errorText(error) }, 'a guest did not write its files to disk');
    }
  }
}

function metadataOf(
  { id: site, image: { id: image, metadata } }: TargetSystem,
  { atMs = 0 }: Snapshot,
  { image: wish, taskId }: Saving,
): ImageMetadata {
  const { version, visibility, name = metadata.name, description = metadata.description } = wish;
  const origin = {
    ...{ image, name: metadata.name, version: metadata.version },
    ...{ site, time: formatDate(atMs), task: taskId },
  };
  return { ...metadata, name, version, description, visibility, origin };
}

/** Nobody frees the room while the task waits: its user is told at once. */
function asFinal(error: unknown): never {
  const known = asGridError(error);
  if (known?.row.http === 429 || known?.code === 'STORAGE_FULL')
    throw new GridError('CONFLICT', known.message, known.details, { cause: error });
  throw error;
}

function conflict(vmId: string, text: string): GridError {
  return new GridError('CONFLICT', text, { vmId });
}
