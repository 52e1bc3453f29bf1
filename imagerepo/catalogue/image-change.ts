import type { ImageChange, ImageRecord } from '../contract.js';

/** What the log holds of a change; the rest of an {@link ImageChange} is in its row. */
export type LoggedImageChange = Pick<
  ImageChange,
  'change' | 'name' | 'version' | 'isPublic' | 'wasPublic'
>;

const isPublic = ({ state, metadata }: ImageRecord): boolean =>
  state === 'PUBLISHED' && metadata.visibility === 'public';

/** @param before, after absent: there is none yet, or no more */
export function imageChange(
  before: ImageRecord | undefined,
  after: ImageRecord | undefined,
): LoggedImageChange | undefined {
  const image = after ?? before;
  if (!image) return undefined;
  const { name, version } = image.metadata;
  const published = after?.state === 'PUBLISHED' && before?.state !== 'PUBLISHED';
  return {
    change: !before ? 'created' : !after ? 'removed' : published ? 'published' : 'changed',
    ...{ name, version },
    isPublic: after !== undefined && isPublic(after),
    wasPublic: before !== undefined && isPublic(before),
  };
}
