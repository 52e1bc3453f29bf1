import type { IncomingHttpHeaders } from 'node:http';

/** The media type of a body in lower case, without its parameters; `undefined`: it has none. */
export function mediaTypeOf({ 'content-type': type }: IncomingHttpHeaders): string | undefined {
  return type?.split(';', 1)[0]?.trim().toLowerCase();
}
