import type { IncomingMessage } from 'node:http';
import { isAskedFirst } from '#kernel/http/foreign-pages.js';
import type { GatewayConfig } from './config.js';

/** What to tell a browser (Fetch, 3.2): headers of every answer, and whether it only wanted to know. */
export type CorsAnswer = {
  readonly headers: readonly string[];
  readonly isPreflight: boolean;
  /** The page may change something by this request. `*` knows nobody: then only without the user's credentials. */
  readonly mayChange: boolean;
};
export type Cors = (request: IncomingMessage) => CorsAnswer;

export function createCors(config: NonNullable<GatewayConfig['cors']>): Cors {
  const { origins, methods, headers: allowed, exposedHeaders, maxAgeSeconds } = config;
  const known = new Set<string>(
    origins.map((origin) => (origin === '*' ? origin : new URL(origin).origin)),
  );
  return (request) => {
    const { method, headers } = request;
    const { origin } = headers;
    const vary = ['Vary', 'Origin'];
    if (origin === undefined || !(known.has('*') || known.has(origin))) {
      return { headers: vary, isPreflight: false, mayChange: false };
    }
    const common = [...vary, 'Access-Control-Allow-Origin', origin];
    const asked = headers['access-control-request-method'];
    if (method !== 'OPTIONS' || asked === undefined) {
      const exposed = ['Access-Control-Expose-Headers', exposedHeaders.join(', ')];
      const mayChange = known.has(origin) || isAskedFirst(request);
      return { headers: [...common, ...exposed], isPreflight: false, mayChange };
    }
    const wanted = headers['access-control-request-headers'];
    const names = allowed?.join(', ') ?? wanted ?? '';
    return {
      headers: [
        ...common,
        ...['Access-Control-Allow-Methods', methods.join(', ')],
        ...(names === '' ? [] : ['Access-Control-Allow-Headers', names]),
        ...['Access-Control-Max-Age', String(maxAgeSeconds)],
      ],
      isPreflight: true,
      mayChange: false,
    };
  };
}
