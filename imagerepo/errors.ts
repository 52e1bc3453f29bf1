import { GridError } from '#kernel/errors.js';

export class ImageError extends GridError<
  'IMAGE_UNKNOWN' | 'IMAGE_INVALID' | 'NOT_FOUND' | 'CONFLICT' | 'TOO_LARGE' | 'STORAGE_FULL'
> {}

/** The same words whether it never was, is gone, or belongs to somebody who does not share it. */
export function unknownImage(imageId: string): ImageError {
  return new ImageError('IMAGE_UNKNOWN', `no image ${imageId}`, { imageId });
}
