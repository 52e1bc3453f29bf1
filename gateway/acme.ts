import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { GatewayError, ownHeaders, sendBody, sendError } from './reply.js';
import { parseTarget } from './target.js';

const largestToken = 4_096;

/** The name of a token in `/.well-known/acme-challenge/<name>` (RFC 8555, 8.3), if that is what is asked for. */
export function acmeToken({ site, path }: { site: string; path: string }): string | undefined {
  if (site !== '.well-known') return undefined;
  return /^\/acme-challenge\/([A-Za-z0-9_-]{1,128})$/.exec(path)?.[1];
}

/** Sends a token that an ACME client has put into the folder. */
export async function sendAcmeToken(
  response: ServerResponse,
  directory: string,
  token: string,
  own: readonly string[],
): Promise<void> {
  const text = await readToken(join(directory, token));
  if (text === undefined) sendError(response, new GatewayError('NOT_FOUND', 'no such token'), own);
  else sendBody(response, 200, ['Content-Type', 'text/plain', ...own], text);
}

/** Authorities ask by plain HTTP on port 80; nothing but tokens is to be had there. */
export function createAcmeServer(directory: () => string | undefined): Server {
  const limits = { headersTimeout: 5_000, requestTimeout: 5_000, maxHeaderSize: 8_192 };
  const server = createServer(limits, (request, response) => {
    const own = ownHeaders('acme');
    response.shouldKeepAlive = false;
    const target = request.method === 'GET' ? parseTarget(request.url ?? '') : undefined;
    const token = target && acmeToken(target);
    const folder = directory();
    if (token === undefined || folder === undefined)
      sendError(response, new GatewayError('NOT_FOUND', 'here are only ACME tokens'), own);
    else void sendAcmeToken(response, folder, token, own);
  });
  server.maxConnections = 100;
  return server;
}

async function readToken(path: string): Promise<string | undefined> {
  try {
    await using handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    const { size } = await handle.stat();
    if (size > largestToken) return undefined;
    return await handle.readFile('utf8');
  } catch {
    return undefined;
  }
}
