import type { ReservationRequest } from '../tsi/tsi.js';

/** Nodes of a batch system for a time to come: the durable record. */
export type Reservation = {
  readonly id: string;
  readonly ownerDn: string;
  readonly targetId: string;
  /** `MAKING`: nobody knows yet whether the batch system has it. */
  readonly state: 'MAKING' | 'MADE' | 'CANCELLING';
  /** As they were asked for. */
  readonly resources: Readonly<Record<string, string>>;
  readonly request: Omit<ReservationRequest, 'reservationOwner' | 'reservationId'>;
  /** What jobs name it by; absent until it is made. */
  readonly reference?: string;
  readonly tags: readonly string[];
  /** What others may do; absent: nothing. */
  readonly acl?: readonly string[];
  /** ms since the epoch */
  readonly createdMs: number;
  /** When it is cancelled, if the batch system has not done so by itself. */
  readonly terminationMs: number;
};

/** The durable records. `save` returns when the record would survive a power cut. */
export type ReservationStore = {
  all(): Promise<Reservation[]>;
  save(reservation: Reservation): Promise<void>;
  remove(id: string): Promise<void>;
};
