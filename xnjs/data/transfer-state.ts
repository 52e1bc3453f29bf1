import { GridError } from '#kernel/errors.js';

export type TransferState =
  'CREATED' | 'RUNNING' | 'DONE' | 'FAILED' | 'ABORTING' | 'ABORTED' | 'DESTROYING';
export type TransferEvent = 'start' | 'done' | 'failed' | 'abort' | 'cleared' | 'destroy';

/** Transfers between servers. A missing cell is an illegal event; late answers are cells too. */
export const transferTransitions = {
  CREATED: { start: 'RUNNING', failed: 'FAILED', abort: 'ABORTING', destroy: 'DESTROYING' },
  RUNNING: {
    start: 'RUNNING',
    done: 'DONE',
    failed: 'FAILED',
    abort: 'ABORTING',
    destroy: 'DESTROYING',
  },
  DONE: { abort: 'DONE', destroy: 'DESTROYING' },
  FAILED: { abort: 'FAILED', destroy: 'DESTROYING' },
  ABORTING: {
    start: 'ABORTING',
    done: 'DONE',
    failed: 'ABORTING',
    abort: 'ABORTING',
    cleared: 'ABORTED',
    destroy: 'DESTROYING',
  },
  ABORTED: { abort: 'ABORTED', destroy: 'DESTROYING' },
  /** Gone once it is cleared. */
  DESTROYING: {
    start: 'DESTROYING',
    done: 'DESTROYING',
    failed: 'DESTROYING',
    abort: 'DESTROYING',
    destroy: 'DESTROYING',
  },
} as const satisfies Record<TransferState, Partial<Record<TransferEvent, TransferState>>>;

/** Pure. @throws `CONFLICT` for an event that the state has no cell for */
export function stepTransfer(state: TransferState, event: TransferEvent): TransferState {
  const cells: Partial<Record<TransferEvent, TransferState>> = transferTransitions[state];
  const next = cells[event];
  if (next === undefined)
    throw new GridError('CONFLICT', `a transfer that is ${state} takes no ${event}`);
  return next;
}
