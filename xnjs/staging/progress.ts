/** Names a transfer for good. */
export type TransferKey = {
  readonly jobId: string;
  readonly run: number;
  readonly direction: 'in' | 'out';
  readonly index: number;
};

/** How far a transfer has come. What is said here was true when it was stored; bytes of a part only grow. */
export type TransferRecord = {
  readonly state: 'RUNNING' | 'DONE' | 'IGNORED';
  /** Of all files together, when it was last stored. */
  readonly bytes: number;
  /** The file under way, by its name at the target. */
  readonly file?: string;
  /** What its source said of its version: an entity tag, a date; size and date of a file. */
  readonly validator?: string | undefined;
  /** Length of a file before it is appended to. */
  readonly appendFrom?: number;
  /** There was no such file before this transfer, so one that is there now is its own. */
  readonly created?: boolean;
  /** Id of an upload that the other side keeps for us. */
  readonly uploadId?: string;
  /** Of several files the last one in order that is complete. */
  readonly lastDone?: string;
};

/** Durable records of transfers. They go with their job. */
export type TransferStore = {
  /** By index. */
  find(key: Omit<TransferKey, 'index'>): Promise<ReadonlyMap<number, TransferRecord>>;
  save(key: TransferKey, record: TransferRecord): Promise<void>;
};

type Known = Pick<TransferRecord, 'validator' | 'appendFrom' | 'created' | 'uploadId'>;

/** A file whose bytes begin to move. */
export type Beginning = {
  readonly file: string;
  readonly offset: number;
  /** Of the whole file, if it is known. */
  readonly totalBytes?: number | undefined;
};

const rememberMs = 1_000;

/** What is remembered of one transfer. */
export class Progress {
  readonly #store: TransferStore;
  readonly #key: TransferKey;
  readonly #onMoved: ((bytes: number) => void) | undefined;
  #record: TransferRecord;
  #storedAt = 0;
  /** Bytes that have moved in this process: whether it gets on. */
  moved = 0;
  /** The file under way, for those who look on. */
  #under:
    | { readonly offset: number; readonly movedBefore: number; readonly totalBytes: number }
    | undefined;

  /** @param onMoved told of bytes as they move */
  constructor(
    store: TransferStore,
    key: TransferKey,
    record: TransferRecord | undefined,
    onMoved?: (bytes: number) => void,
  ) {
    this.#store = store;
    this.#key = key;
    this.#onMoved = onMoved;
    this.#record = record ?? { state: 'RUNNING', bytes: 0 };
  }

  get record(): TransferRecord {
    return this.#record;
  }

  /** What is known of the file under way, if it is this one. */
  of(file: string): TransferRecord | undefined {
    return this.#record.file === file ? this.#record : undefined;
  }

  /** Bytes that are over there, also of the file under way. */
  get transferredBytes(): number {
    const { offset = 0, movedBefore = this.moved } = this.#under ?? {};
    return this.#record.bytes + offset + this.moved - movedBefore;
  }

  move(bytes: number): void {
    this.moved += bytes;
    this.#onMoved?.(bytes);
  }

  /** The bytes of a file begin to move, from `offset` on. */
  began({ offset, totalBytes = 0 }: Beginning): void {
    this.#under = { offset, totalBytes, movedBefore: this.moved };
  }

  /** Of the files that are complete and the one under way. */
  get knownBytes(): number {
    return this.#record.bytes + (this.#under?.totalBytes ?? 0);
  }

  /** Begins with a file, or says more of it; durable when this returns. */
  async note(file: string, known: Known): Promise<void> {
    const { state, bytes, lastDone } = this.#record;
    const before = this.of(file) ?? { state, bytes, ...(lastDone !== undefined && { lastDone }) };
    await this.#save({ ...before, file, ...known });
  }

  /**
   * One of several files is complete. Remembered now and then: what is forgotten is only done again.
   * @param exactly it must not be done again
   */
  async complete(file: string, bytes: number, exactly: boolean, nowMs: number): Promise<void> {
    const { state, bytes: before } = this.#record;
    this.#under = undefined;
    this.#record = { state, bytes: before + bytes, lastDone: file };
    if (exactly || nowMs - this.#storedAt >= rememberMs) {
      this.#storedAt = nowMs;
      await this.#save(this.#record);
    }
  }

  /** The whole of it is over. */
  async end(state: 'DONE' | 'IGNORED'): Promise<void> {
    const { bytes } = this.#record;
    await this.#save({ state, bytes });
  }

  async #save(record: TransferRecord): Promise<void> {
    this.#record = record;
    await this.#store.save(this.#key, record);
  }
}
