import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Log } from '#kernel/log.js';
import { AnswerHead } from './answer-head.js';
import type { Answered } from './request-metrics.js';
import { Logged, type ServedRequest } from './served.js';

/** Addresses that let in whoever has them. */
const capability = /(\/rest\/(?:files|access)\/).*/;
const requestId = /^[A-Za-z0-9._:-]{1,128}$/;

/**
 * Gives every request an id, the sender's (`X-Request-Id`) where it is well formed, a logger, and a line
 * in the log when it is done. Paths are logged without their query, which may hold tokens, and without
 * what makes them a capability.
 * @param onAnswered told of each, too
 */
export function requestLogging(
  log: Log,
  onAnswered?: (answered: Answered) => void,
): (request: IncomingMessage, response: ServerResponse) => ServedRequest {
  return (request, response) => {
    const startedMs = performance.now();
    const { method, url = '' } = request;
    const given = request.headers['x-request-id'];
    const reqId = typeof given === 'string' && requestId.test(given) ? given : randomUUID();
    const logged = new Logged(reqId, log);
    // failures are logged by the edge, with their cause
    response.once('close', () => {
      const path = url.split('?', 1)[0]?.replace(capability, '$1…');
      const req = { method, path, peer: request.socket.remoteAddress };
      const ms = Math.round(performance.now() - startedMs);
      const { statusCode: status } = response;
      log.info({ reqId, req, res: { status }, ms }, 'request');
      if (!onAnswered) return;
      onAnswered({ operation: logged.operation, status, ms: performance.now() - startedMs });
    });
    const served = request as ServedRequest; // with what makes it one
    served.id = reqId;
    served.logged = logged;
    served.head = new AnswerHead();
    served.head.setHeader('x-request-id', reqId);
    return served;
  };
}
