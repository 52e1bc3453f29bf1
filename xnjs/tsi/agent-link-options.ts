import type { Duplex } from 'node:stream';
import type { Clock } from '#kernel/clock.js';
import type { Log } from '#kernel/log.js';
import type { EnrolmentAnswer, EnrolmentAsk, EnrolmentGrant } from '#tsi/protocol/enrolment.js';
import type { Greeting } from '#tsi/protocol/greeting.js';

export type LinkState = 'connecting' | 'up' | 'down';

export type AgentLinkOptions = {
  /** For logs and transports: the VM. */
  readonly name: string;
  /** A fresh byte stream to the agent; called again after each loss. */
  readonly dial: (signal: AbortSignal) => Promise<Duplex>;
  /** Whether `dial` gives connections beside the first: then workers have their own, which is faster. */
  readonly dialsMany?: boolean;
  /** At least; more where there are many links. */
  readonly heartbeatMs: number;
  /** A heartbeat unanswered for so long ends the connection; it waits behind data in the channel. */
  readonly silenceMs?: number;
  /** How long a connection keeps its session without a stream. */
  readonly restMs?: number;
  /** How long a silent connection is given to prove itself: a guest that still boots is silent. */
  readonly handshakeMs?: number;
  /** What the agent is told on each connection before HTTP/2; absent: nothing. */
  readonly greet?: () => Omit<Greeting, 'nonce'> | undefined;
  /**
   * Makes sure that it is the right machine that answers, before anything else is asked on a connection.
   * `asked`: by the greeting, and not used yet.
   */
  readonly admit?: (ask: AskEnrolment, asked?: EnrolmentAsk) => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
};

/** @returns the answer; `undefined`: such an agent does not know the question */
export type AskEnrolment = (
  message: EnrolmentAsk | EnrolmentGrant,
) => Promise<EnrolmentAnswer | undefined>;
