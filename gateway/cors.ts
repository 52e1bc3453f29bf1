import type { IncomingMessage } from 'node:http';
import type { GatewayConfig } from './config.js';

/** What to tell a browser (Fetch, 3.2): headers of every answer, and whether it only wanted to know. */
export type CorsAnswer = { readonly headers: readonly string[]; readonly isPreflight: boolean };
export type Cors = (request: IncomingMessage) => CorsAnswer;

export function createCors(config: NonNullable<GatewayConfig['cors']>): Cors {
  const { origins, methods, headers: allowed, exposedHeaders, maxAgeSeconds } = config;
  const known = new Set<string>(
    origins.map((origin) => (origin === '*' ? origin : new URL(origin).origin)),
  );
  return ({ method, headers }) => {
    const { origin } = headers;
    const vary = ['Vary', 'Origin'];
    if (origin === undefined || !(known.has('*') || known.has(origin))) {
      return { headers: vary, isPreflight: false };
    }
    const common = [...vary, 'Access-Control-Allow-Origin', origin];
    const asked = headers['access-control-request-method'];
    if (method !== 'OPTIONS' || asked === undefined) {
      const exposed = ['Access-Control-Expose-Headers', exposedHeaders.join(', ')];
      return { headers: [...common, ...exposed], isPreflight: false };
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
    };
  };
}
