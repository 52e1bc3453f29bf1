import type { FileSpace } from '../files/file-space.js';
import type { ResourceStatus } from '../vm/resource-status.js';
import type { StorageState } from './state.js';

/** What may be changed of every storage; what is absent is as it was configured. */
export type StorageSettings = {
  readonly umask?: string;
  readonly description?: string;
  readonly tags?: readonly string[];
  /** `read:DN:CN=Bob`, see `acl.ts`. */
  readonly acl?: readonly string[];
};

/** A storage that a user had made: the durable record. */
export type CreatedStorage = {
  readonly id: string;
  readonly ownerDn: string;
  /** Name of its type, as configured when it was made. */
  readonly type: string;
  readonly place:
    | { readonly on: 'host'; readonly base: string; readonly quotaMiB?: number | undefined }
    | { readonly on: 'target'; readonly targetId: string; readonly path: string };
  /** The directory is removed with the storage. Never one that its user has named. */
  readonly cleanup: boolean;
  readonly metadata: boolean;
  readonly state: StorageState;
  /** Why it is in this state. */
  readonly reason: string;
  readonly settings: StorageSettings;
  /** ms since the epoch */
  readonly createdMs: number;
  /** ms since the epoch; absent: lives until deleted */
  readonly terminationMs?: number | undefined;
};

/** A storage of any kind, as its users see it. */
export type Storage = {
  readonly id: string;
  readonly kind: 'HOME' | 'WORK' | 'USPACE' | 'SHARED' | 'CREATED';
  /** Absent: the server's, for all its users. */
  readonly ownerDn?: string;
  readonly description: string;
  readonly umask: string;
  readonly tags: readonly string[];
  readonly acl: readonly string[];
  readonly status: ResourceStatus;
  readonly statusMessage: string;
  /** What the files lie on. */
  readonly filesystem: string;
  readonly metadata: boolean;
  readonly terminationMs?: number | undefined;
  readonly jobId?: string;
  /** The target system that the files lie on; absent: this server. */
  readonly targetId?: string;
  /** Name of its type, if a user had it made. */
  readonly type?: string;
  /** @param userDn whose files these are where each user has his own */
  readonly files: (userDn: string) => FileSpace;
};

export type StorageStore = {
  all(): Promise<{
    readonly created: readonly CreatedStorage[];
    readonly settings: ReadonlyMap<string, StorageSettings>;
  }>;
  save(storage: CreatedStorage): Promise<void>;
  saveSettings(id: string, settings: StorageSettings): Promise<void>;
  /** A record or settings. */
  remove(id: string): Promise<void>;
};
