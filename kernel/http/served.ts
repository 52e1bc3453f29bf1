import type { IncomingMessage } from 'node:http';
import type { Log } from '#kernel/log.js';
import type { AnswerHead } from './answer-head.js';
import type { Caller } from './caller.js';

/**
 * A request as the log has it. A class: each object literal with a getter of its own becomes a shape of its own to V8,
 * which keeps the request alive until old objects are collected.
 */
export class Logged {
  /** `GET /jobs/:jobId`, once it is known. */
  operation: string | undefined;
  readonly reqId: string;
  readonly #parent: Log;
  #own: Log | undefined;

  constructor(reqId: string, parent: Log) {
    this.reqId = reqId;
    this.#parent = parent;
  }

  /** Made when there is something to say: a logger costs more than most requests. */
  get log(): Log {
    return (this.#own ??= this.#parent.child({ reqId: this.reqId }));
  }
}

/**
 * A request on its way through a service: Node's own, with what we know about it. It has none of express' methods: to
 * give an object another prototype costs more than all of them.
 */
export type ServedRequest = IncomingMessage & {
  /** By which it is logged, and by which who authenticates writes it down, too. */
  id: string;
  logged: Logged;
  /** Of its answer. */
  head: AnswerHead;
  caller?: Caller;
  /** Methods of its address, where it asks for none of them. */
  allowed?: string[];
};
