import { chmod, lstat, unlink } from 'node:fs/promises';
import { createServer, type RequestListener, type Server } from 'node:http';
import { createServer as createTlsServer, type ServerOptions as TlsOptions } from 'node:https';
import { connect, type ListenOptions as SocketOptions } from 'node:net';
import type { Duplex } from 'node:stream';
import { GridError } from '#kernel/errors.js';
import type { Scope } from '#kernel/scope.js';
import { drainable, drainTimeoutMs } from './drain.js';
import { LocalService } from './local.js';
import { GetMayUpgrade, serveUpgrades } from './upgrade.js';

export class ListenError extends GridError<'ADDRESS_IN_USE' | 'CONFIG_INVALID'> {}

/** `port` 0 takes a free one. */
export type ListenAddress =
  | { readonly host: string; readonly port: number; readonly tls?: TlsOptions | undefined }
  | { readonly unix: string };

export type ListenOptions = {
  /** Operations may answer with another protocol. */
  readonly upgrades?: boolean;
};

/** Where it really listens. */
export type Listening = {
  readonly server: Server;
  readonly port?: number;
  /** The same for a gateway in this process. */
  readonly local: LocalService;
  /** Ends the connections of now, each after its answer; those that speak another protocol by now stay. */
  readonly endConnections: () => void;
};

const headersTimeoutMs = 20_000;
const keepAliveTimeoutMs = 65_000;
/** No byte in either direction for this long ends a connection, also in the middle of a transfer. */
const idleTimeoutMs = 120_000;
/** How long the rest of a refused upload is read, so that the client gets to see the answer. */
const lingerTimeoutMs = 5_000;

/**
 * Serves HTTP until the scope closes: then no new connections, requests under way may finish.
 * @throws {@link ListenError} `ADDRESS_IN_USE` naming the address
 */
export async function listen(
  handler: RequestListener,
  where: ListenAddress,
  scope: Scope,
  { upgrades = false }: ListenOptions = {},
): Promise<Listening> {
  // uploads may take hours: no limit on a whole request, but on its head and on silence
  const limits = {
    headersTimeout: headersTimeoutMs,
    keepAliveTimeout: keepAliveTimeoutMs,
    requestTimeout: 0,
    handshakeTimeout: headersTimeoutMs,
    maxHeaderSize: 32_768,
    ...(upgrades && { IncomingMessage: GetMayUpgrade }),
  };
  const tls = 'tls' in where ? where.tls : undefined;
  const server = tls ? createTlsServer({ ...limits, ...tls }) : createServer(limits);
  server.setTimeout(idleTimeoutMs);
  const { close, endConnections } = drainable(server, tls ? 'secureConnection' : 'connection');
  server.on('request', handler);
  server.on('request', limitRefusedUpload);
  // the handler decides whether it wants the body at all
  server.on('checkContinue', (request, response) => server.emit('request', request, response));
  if (upgrades) serveUpgrades(server);
  server.on('clientError', answerBrokenRequest);
  // Node leaves it open, also after `handshakeTimeout`; an answer could never be sent
  server.on('tlsClientError', (_error, socket: Duplex) => socket.destroy());
  if ('unix' in where) await removeStaleSocket(where.unix);
  await start(server, where);
  if ('unix' in where) await chmod(where.unix, 0o600);
  const local = new LocalService(handler, drainTimeoutMs);
  scope.defer(() => Promise.all([close(), local.close()]));
  const address = server.address();
  const port = typeof address === 'object' && address ? address.port : undefined;
  return { server, local, endConnections, ...(port !== undefined && { port }) };
}

function start(server: Server, where: ListenAddress): Promise<void> {
  const options: SocketOptions =
    'unix' in where ? { path: where.unix } : { host: where.host, port: where.port };
  return new Promise((resolve, reject) => {
    server.once('error', (cause) => {
      reject(listenError(cause, 'unix' in where ? where.unix : `${where.host}:${where.port}`));
    });
    server.listen(options, resolve);
  });
}

/** Why a server cannot listen on `address`. */
export function listenError(cause: NodeJS.ErrnoException, address: string): ListenError {
  const [code, reason] =
    cause.code === 'EADDRINUSE'
      ? (['ADDRESS_IN_USE', `${address} is used by another program`] as const)
      : (['CONFIG_INVALID', `cannot listen on ${address}: ${cause.message}`] as const);
  return new ListenError(code, reason, { address }, { cause });
}

/** What a killed server left behind is removed; what answers, or is no socket, stays. */
async function removeStaleSocket(path: string): Promise<void> {
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined) return;
  if (!found.isSocket())
    throw new ListenError('CONFIG_INVALID', `${path} is not a socket`, { path });
  if (await answers(path))
    throw new ListenError('ADDRESS_IN_USE', `${path} is used by another program`, { path });
  await unlink(path);
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path)
      .once('connect', () => {
        socket.destroy();
        resolve(true);
      })
      .once('error', () => resolve(false));
  });
}

const limitRefusedUpload: RequestListener = (request, response) => {
  response.once('finish', () => {
    if (request.complete) return;
    request.resume();
    const timer = setTimeout(() => request.destroy(), lingerTimeoutMs).unref();
    request.once('close', () => clearTimeout(timer));
  });
};

function answerBrokenRequest(error: NodeJS.ErrnoException, socket: Duplex) {
  if (error.code === 'ECONNRESET' || !socket.writable) socket.destroy();
  else {
    const status =
      error.code === 'HPE_HEADER_OVERFLOW'
        ? '431 Request Header Fields Too Large'
        : '400 Bad Request';
    socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
  }
}
