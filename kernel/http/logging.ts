import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { RequestHandler } from 'express';
import type { Log } from '#kernel/log.js';

declare module 'node:http' {
  interface IncomingMessage {
    /** The sender's (`X-Request-Id`) where it is well formed. */
    id: string;
  }
}

/** Addresses that let in whoever has them. */
const capability = /(\/rest\/(?:files|access)\/).*/;
const wellFormed = /^[A-Za-z0-9._:-]{1,128}$/;

/**
 * Gives every request an id, and a line in the log when it is done. Failures are logged by the edge, with
 * their cause. Paths are logged without their query, which may hold tokens, and without what makes them a
 * capability.
 */
export function requestLogging(log: Log): RequestHandler {
  return (request, response, next) => {
    const startedMs = performance.now();
    const given = request.headers['x-request-id'];
    request.id = typeof given === 'string' && wellFormed.test(given) ? given : randomUUID();
    response.setHeader('x-request-id', request.id);
    response.once('close', () => {
      const ms = Math.round(performance.now() - startedMs);
      const { statusCode: status } = response;
      log.info({ reqId: request.id, req: described(request), res: { status }, ms }, 'request');
    });
    next();
  };
}

function described({ method, url, socket }: IncomingMessage): object {
  return {
    method,
    path: url?.split('?', 1)[0]?.replace(capability, '$1…'),
    peer: socket.remoteAddress,
  };
}
