import type { ImageRecord, PartName } from '#imagerepo/contract.js';
import type { ImageRequirements } from './image-wish.js';

/** Where target systems get their images from. */
export type ImageSource = {
  /**
   * @param reference an image's id, its name, or `name:version` (the newest published one of that name)
   * @param callerDn who asks; an image that is hidden from them is unknown
   * @throws `IMAGE_UNKNOWN`
   */
  find(reference: string, callerDn: string): Promise<ImageRecord>;
  /** Whether {@link fetch} would find the part on this host. */
  isHere(image: Pick<ImageRecord, 'parts'>, part: PartName): Promise<boolean>;
  /** The part as a local file that nobody writes to any more, its digest verified. */
  fetch(
    image: Pick<ImageRecord, 'id' | 'parts'>,
    part: PartName,
    callerDn: string,
  ): Promise<string>;
};

/** How images are found that jobs describe. */
export type ImageSearch = Pick<ImageSource, 'find'> & {
  /**
   * Published ones that the caller may use and that have what is asked for, the newest first. Ranges of
   * versions and kinds of operating systems are not looked at.
   */
  search(requirements: ImageRequirements, callerDn: string): Promise<ImageRecord[]>;
};
