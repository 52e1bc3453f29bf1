import type { IncomingMessage } from 'node:http';
import type { Log } from '#kernel/log.js';
import type { Caller } from './caller.js';

/** A request as the log has it. */
export type Logged = {
  /** `GET /jobs/:jobId`, once it is known. */
  operation?: string;
  readonly reqId: string;
  /** Made when there is something to say: a logger costs more than most requests. */
  readonly log: Log;
};

/**
 * A request on its way through a service: Node's own, with what express' router and we know about it. It has none of
 * express' methods: to give an object another prototype costs more than all of them.
 */
export type ServedRequest = IncomingMessage & {
  /** As it came: of `url` the router cuts off what a group begins with. */
  readonly originalUrl: string;
  readonly params: Readonly<Record<string, string | string[]>>;
  /** By which it is logged, and by which who authenticates writes it down, too. */
  readonly id: string;
  readonly logged: Logged;
  caller?: Caller;
  /** Methods of its address, where it asks for none of them. */
  allowed?: string[];
};
