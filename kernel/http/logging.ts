import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { pinoHttp, type HttpLogger } from 'pino-http';
import type { Log } from '#kernel/log.js';

/** Addresses that let in whoever has them. */
const capability = /(\/rest\/(?:files|access)\/).*/;
const requestId = /^[A-Za-z0-9._:-]{1,128}$/;

/**
 * Gives every request an id, the sender's (`X-Request-Id`) where it is well formed, a logger, and a line
 * in the log when it is done. Paths are logged without their query, which may hold tokens, and without
 * what makes them a capability.
 */
export function requestLogging(log: Log): HttpLogger {
  return pinoHttp({
    logger: log,
    quietReqLogger: true,
    genReqId(request: IncomingMessage, response: ServerResponse) {
      const given = request.headers['x-request-id'];
      const id = typeof given === 'string' && requestId.test(given) ? given : randomUUID();
      response.setHeader('x-request-id', id);
      return id;
    },
    customAttributeKeys: { reqId: 'reqId', responseTime: 'ms' },
    // failures are logged by the edge, with their cause
    customLogLevel: () => 'info',
    customSuccessMessage: () => 'request',
    customErrorMessage: () => 'request',
    customErrorObject: (_request, _response, _error, facts: object) => ({
      ...facts,
      err: undefined,
    }),
    wrapSerializers: false,
    serializers: {
      req: ({ method, url, socket }: IncomingMessage) => ({
        method,
        path: url?.split('?', 1)[0]?.replace(capability, '$1…'),
        peer: socket.remoteAddress,
      }),
      res: ({ statusCode }: ServerResponse) => ({ status: statusCode }),
    },
  });
}
