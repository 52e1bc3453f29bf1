import type { Readable } from 'node:stream';

/**
 * Where one file is received: first as a part, which grows from try to try, then in its place. On a target
 * system a script's work, on this server the file space's.
 */
export type Landing = {
  /** Of what is in the place. */
  readonly size: () => Promise<number | undefined>;
  readonly partSize: () => Promise<number | undefined>;
  /** The part from its beginning. */
  readonly readPart: (lengthBytes: number) => Readable;
  /** @param append to what is there of it, which otherwise goes. @returns bytes taken */
  readonly writePart: (bytes: Readable, append: boolean) => Promise<number>;
  readonly removePart: () => Promise<unknown>;
  /** Brings the complete part to its place. May be done again. */
  readonly place: (permissions: string | undefined) => Promise<unknown>;
};
