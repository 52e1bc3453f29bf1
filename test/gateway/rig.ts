import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import { request as httpsRequest, type RequestOptions } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect, type ConnectionOptions, type TLSSocket } from 'node:tls';
import type { z } from 'zod';
import { loadConfig } from '#kernel/config.js';
import { LocalService } from '#kernel/http/local.js';
import { createLog, type Log } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { createCredentials, type Credentials } from '#kernel/security/credentials.js';
import { GatewayConfig, startGateway, type Gateway } from '#gateway/main.js';
import { copyOfShared } from '../shared-files.js';

/** A gateway with a real certificate in front of a real server on a unix socket. */
export type Rig = AsyncDisposable & {
  readonly directory: string;
  readonly credentials: Credentials;
  readonly ca: string;
  readonly gateway: Gateway;
  readonly port: number;
  readonly upstream: Server;
  /** What the gateway logged. */
  readonly lines: Record<string, unknown>[];
  readonly signer: X509Certificate;
  request(options: Asked): Promise<Answer>;
  /** Writes the configuration with these changes, and has it read. */
  reconfigure(change: RigConfig): Promise<void>;
  readonly configFile: string;
  /** Options that make a request show the demo user's certificate. */
  readonly asUser: { cert: string; key: string };
};
export type Asked = RequestOptions & { body?: string | Buffer; session?: Buffer };
export type Answer = {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
};

let made: Promise<{ directory: string; credentials: Credentials }> | undefined;

/** One set of certificates for all rigs of a process. */
export function sharedCredentials(): Promise<{ directory: string; credentials: Credentials }> {
  made ??= (async () => {
    const directory = await mkdtemp(join(tmpdir(), 'gateway-certificates-'));
    process.once('exit', () => rmSync(directory, { recursive: true, force: true }));
    await copyOfShared('credentials', directory, (made) => createCredentials({ directory: made }));
    return { directory, credentials: await createCredentials({ directory }) };
  })();
  return made;
}

type Config = z.input<typeof GatewayConfig>;
export type RigConfig = Partial<Omit<Config, 'listen' | 'tls'>> & { tls?: Partial<Config['tls']> };
export type RigOptions = RigConfig & { host?: string; port?: number; log?: Log };

/** Whether the site is in the gateway's process, as under `vsite serve`, or behind a socket. */
export const rigDefaults = { isLocal: false };

export async function startRig(listener: RequestListener, options: RigOptions = {}): Promise<Rig> {
  const scope = new Scope();
  const { credentials } = await sharedCredentials();
  const directory = await mkdtemp(join(tmpdir(), 'gateway-'));
  scope.defer(() => rm(directory, { recursive: true, force: true }));
  const socketPath = join(directory, 'site.sock');
  const upstream = createServer(listener);
  await new Promise<void>((resolve) => upstream.listen(socketPath, resolve));
  scope.defer(() => {
    upstream.closeAllConnections();
    return new Promise((resolve) => upstream.close(resolve));
  });
  const lines: Record<string, unknown>[] = [];
  const stream = {
    write: (line: string) => lines.push(JSON.parse(line) as Record<string, unknown>),
  };
  const { log = createLog({ level: 'debug', stream }), ...others } = options;
  const { host = 'localhost', port: listenPort = 0, ...given } = others;
  const configFile = join(directory, 'gateway.yaml');
  const configWith = ({ tls, ...change }: RigConfig) => ({
    listen: { host, port: listenPort },
    tls: { ...credentials.gateway, trustFiles: [credentials.ca.certFile], ...tls },
    signingKeyFile: credentials.consignor.keyFile,
    reloadSeconds: 0.1,
    sites: { VSITE: `unix:${socketPath}`, DOWN: `unix:${socketPath}.none` },
    ...change,
  });
  const configure = (change: RigConfig) =>
    writeFile(configFile, JSON.stringify(configWith(change)));
  await configure(given);
  const local = new Map<string, LocalService>();
  if (rigDefaults.isLocal) local.set(`unix:${socketPath}`, localService(listener));
  const starting = startGateway(await loadConfig(configFile, GatewayConfig), {
    ...{ log, configFile, local },
  });
  const gateway = await starting.catch(async (error: unknown) => {
    await scope.close();
    throw error;
  });
  scope.defer(() => gateway.close());
  const ca = await readFile(credentials.ca.certFile, 'utf8');
  const port = Number(new URL(gateway.url).port);
  return {
    directory,
    credentials,
    ca,
    gateway,
    port,
    upstream,
    lines,
    signer: new X509Certificate(await readFile(credentials.consignor.certFile)),
    asUser: {
      cert: await readFile(credentials.user.certFile, 'utf8'),
      key: await readFile(credentials.user.keyFile, 'utf8'),
    },
    request: (more) =>
      ask({ host: 'localhost', servername: 'localhost', port, ca, agent: false, ...more }),
    configFile,
    reconfigure: async (change) => {
      await configure({ ...given, ...change });
      await gateway.reload();
    },
    [Symbol.asyncDispose]: () => scope.close(),
  };
}

/** Tells clients to send their bodies, as a server does that is not told otherwise. */
function localService(listener: RequestListener): LocalService {
  return new LocalService((request, response) => {
    if (request.headers.expect !== undefined) response.writeContinue();
    listener(request, response);
  }, 10_000);
}

function ask({ body, ...options }: Asked): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpsRequest(options, (answer) => {
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('error', reject);
      answer.on('end', () => {
        const { statusCode: status = 0, headers } = answer;
        resolve({ status, headers, body: Buffer.concat(chunks).toString() });
      });
    });
    request.on('error', reject);
    // Node frames no body of a GET by itself
    if (body !== undefined && !request.hasHeader('transfer-encoding')) {
      request.setHeader('content-length', Buffer.byteLength(body));
    }
    request.end(body);
  });
}

/** A connection to a gateway, when its handshake is done. @throws when it is refused */
export async function openTls(
  { port, ca }: Pick<Rig, 'port' | 'ca'>,
  more: ConnectionOptions & { readonly localAddress?: string } = {},
): Promise<TLSSocket> {
  const socket = connect({ host: 'localhost', servername: 'localhost', port, ca, ...more });
  await once(socket, 'secureConnect');
  return socket.on('error', () => undefined);
}

/** Waits for what must become true soon. */
export async function eventually(
  check: () => boolean | Promise<boolean>,
  what: string,
): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!(await check())) {
    assert.ok(Date.now() < deadline, `did not happen: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
