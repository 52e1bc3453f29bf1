import { randomUUID } from 'node:crypto';
import type { Request, RequestHandler } from 'express';
import type { Log } from '#kernel/log.js';
import type { Answered } from './request-metrics.js';

/** Addresses that let in whoever has them. */
const capability = /(\/rest\/(?:files|access)\/).*/;
const requestId = /^[A-Za-z0-9._:-]{1,128}$/;

/** A request as the log has it. */
export type Logged = {
  readonly reqId: string;
  /** Made when there is something to say: a logger costs more than most requests. */
  readonly log: Log;
  /** `GET /jobs/:jobId`, once it is known. */
  operation?: string;
};

export type LoggedRequest = Request & { logged: Logged };

/**
 * Gives every request an id, the sender's (`X-Request-Id`) where it is well formed, a logger, and a line
 * in the log when it is done. Paths are logged without their query, which may hold tokens, and without
 * what makes them a capability.
 * @param onAnswered told of each, too
 */
export function requestLogging(
  log: Log,
  onAnswered?: (answered: Answered) => void,
): RequestHandler {
  return (request, response, next) => {
    const startedMs = performance.now();
    const given = request.headers['x-request-id'];
    const reqId = typeof given === 'string' && requestId.test(given) ? given : randomUUID();
    response.setHeader('x-request-id', reqId);
    let own: Log | undefined;
    Object.assign(request, {
      id: reqId, // who authenticates writes it down, too
      logged: {
        reqId,
        get log() {
          return (own ??= log.child({ reqId }));
        },
      } satisfies Logged,
    });
    // failures are logged by the edge, with their cause
    response.once('close', () => {
      const { method, originalUrl, socket } = request;
      const path = originalUrl.split('?', 1)[0]?.replace(capability, '$1…');
      const req = { method, path, peer: socket.remoteAddress };
      const ms = Math.round(performance.now() - startedMs);
      const { statusCode: status } = response;
      log.info({ reqId, req, res: { status }, ms }, 'request');
      if (!onAnswered) return;
      const { operation } = (request as LoggedRequest).logged;
      onAnswered({ operation, status, ms: performance.now() - startedMs });
    });
    next();
  };
}
