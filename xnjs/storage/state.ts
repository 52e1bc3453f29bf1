import { GridError } from '#kernel/errors.js';
import type { CreatedStorage } from './storage.js';

export type StorageState = 'INITIALIZING' | 'READY' | 'FAILED' | 'DESTROYING' | 'DESTROYED';
export type StorageEvent = {
  readonly type: 'made' | 'failed' | 'lost' | 'destroy' | 'removed';
  /** For people. */
  readonly reason: string;
};

/** User-created storages. A missing cell is an illegal event; late answers are cells too. */
export const transitions = {
  INITIALIZING: { made: 'READY', failed: 'FAILED', lost: 'FAILED', destroy: 'DESTROYING' },
  READY: { lost: 'FAILED', destroy: 'DESTROYING' },
  FAILED: { lost: 'FAILED', destroy: 'DESTROYING' },
  DESTROYING: {
    made: 'DESTROYING',
    failed: 'DESTROYING',
    lost: 'DESTROYING',
    destroy: 'DESTROYING',
    removed: 'DESTROYED',
  },
  DESTROYED: {},
} as const satisfies Record<StorageState, Partial<Record<StorageEvent['type'], StorageState>>>;

/** Pure. @throws `CONFLICT` for an event that the state has no cell for */
export function step(storage: CreatedStorage, { type, reason }: StorageEvent): CreatedStorage {
  const cells: Partial<Record<StorageEvent['type'], StorageState>> = transitions[storage.state];
  const state = cells[type];
  if (state === undefined)
    throw new GridError('CONFLICT', `a storage that is ${storage.state} cannot be ${type}`);
  return state === storage.state ? storage : { ...storage, state, reason };
}
