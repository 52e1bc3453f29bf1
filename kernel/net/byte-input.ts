/** Takes bytes as they come; the memory they lie in is used again once it has returned, or its promise is settled. */
export type Sink = (pieces: readonly Buffer[]) => Promise<void> | void;

/** A stream of bytes, of which each step of a protocol takes what is its own. One reader at a time. */
export type ByteInput = {
  /** Bytes that have arrived and that nobody has asked for. */
  readonly waitingBytes: number;
  /** @returns whether all of `length` came before the end. @throws what broke the stream, or what `sink` throws */
  readonly take: (length: number, sink: Sink) => Promise<boolean>;
  /** @returns whether all of `target` could be filled before the end. @throws what broke the stream */
  readonly fill: (target: Buffer) => Promise<boolean>;
};
