import { createHash, timingSafeEqual } from 'node:crypto';
import { StagingError } from './errors.js';

/** `ExtraParameters.checksum`: `sha256:<hex>`. */
export const digestPattern =
  /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}|sha1:[0-9a-f]{40}|md5:[0-9a-f]{32})$/i;

export type Digest = {
  update(bytes: Buffer): void;
  /** @throws {@link StagingError} the bytes are not those that were meant */
  verify(): void;
};

/** @param expected as {@link digestPattern} says; nothing is computed without */
export function digestOf(expected: string | undefined): Digest | undefined {
  if (expected === undefined) return undefined;
  const [algorithm = '', wanted = ''] = expected.toLowerCase().split(':');
  const hash = createHash(algorithm);
  return {
    update: (bytes) => void hash.update(bytes),
    verify() {
      const found = hash.digest();
      if (timingSafeEqual(found, Buffer.from(wanted, 'hex'))) return;
      throw new StagingError(
        'PEER_FAILED',
        `the content has the checksum ${algorithm}:${found.toString('hex')}, not ${expected}`,
      );
    },
  };
}
