import { nameOf } from '../choose-image.js';
import { controlNames } from '../resource-controls.js';
import type { TargetBinding } from '../target-binding.js';
import type { TargetSystem } from '../target-system.js';
import type { Spare } from './spare.js';

/**
 * `unsure`: a server before us had it. `taken`: it is becoming a target system, or a database has not
 * told whether it has; the next start tells.
 */
export type Phase = 'unsure' | 'starting' | 'ready' | 'taken' | 'going';
export type Held = {
  spare: Spare;
  readonly gone: AbortController;
  phase: Phase;
  isUp: boolean;
  /** Since when its agent has not answered; ms since the epoch. */
  silentMs?: number | undefined;
  binding?: TargetBinding;
  /** Resolves when its domain runs, or could not be started. */
  making?: Promise<unknown>;
};

/** A spare that became a target system. */
export type Claimed = {
  readonly record: TargetSystem;
  /** The link to its agent. */
  readonly binding: TargetBinding;
  /** Resolves when it has got the identity that it was sent meanwhile. */
  readonly becoming: Promise<void>;
};

export function isFree({ phase, isUp }: Held): boolean {
  return phase === 'ready' && isUp;
}

/** What a spare is from then on. */
export function claimedBy(draft: TargetSystem, spare: Spare, nowMs: number): TargetSystem {
  const unapplied = controlNames.filter(
    (name) => draft.parameters[name] !== spare.parameters[name],
  );
  const reason = `a machine of ${nameOf(draft.image)} was running, and free`;
  return {
    ...draft,
    id: spare.id,
    start: { tier: 'spare', reason },
    boot: { claimedMs: nowMs - draft.createdMs },
    ...(spare.enrolment && { enrolment: spare.enrolment }),
    ...(spare.agentDisks && { agentDisks: spare.agentDisks }),
    ...(unapplied.length > 0 && { unapplied }),
  };
}
