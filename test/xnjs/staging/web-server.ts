import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { createCa, issueCertificate, keyPem } from '#kernel/security/ca.js';
import type { Scope } from '#kernel/scope.js';

export type Handler = (request: IncomingMessage, response: ServerResponse, seen: Seen) => void;
export type Seen = {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage['headers'];
};
export type WebServer = {
  readonly url: string;
  /** What it was asked, in order. */
  readonly seen: Seen[];
  /** PEM of its authority, if it speaks TLS. */
  readonly ca: string;
};

/** A web server of the test, on loopback. */
export async function startWeb(
  scope: Scope,
  handle: Handler,
  { tls = false }: { tls?: boolean } = {},
): Promise<WebServer> {
  const seen: Seen[] = [];
  const listener = (request: IncomingMessage, response: ServerResponse): void => {
    const { method = '', url: path = '', headers } = request;
    const one = { method, path, headers };
    seen.push(one);
    handle(request, response, one);
  };
  let ca = '';
  let server;
  if (tls) {
    const authority = await createCa('CN=Test CA,O=Grid');
    const { key, certificate } = await issueCertificate(authority, {
      subject: 'CN=localhost,O=Grid',
      usage: 'server',
      hosts: ['localhost', '127.0.0.1'],
    });
    ca = authority.certificate.toString();
    server = createTlsServer({ key: keyPem(key), cert: certificate.toString() }, listener);
  } else server = createServer(listener);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  scope.defer(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return { url: `${tls ? 'https://localhost' : 'http://127.0.0.1'}:${port}`, seen, ca };
}

/** Serves content with ranges and an entity tag, as a file server does. */
export function serve(
  content: Buffer,
  request: IncomingMessage,
  response: ServerResponse,
  etag = `"${createHash('md5').update(content).digest('hex')}"`,
): void {
  const [, from] = /^bytes=(\d+)-$/.exec(request.headers.range ?? '') ?? [];
  const valid = request.headers['if-range'] === undefined || request.headers['if-range'] === etag;
  const headers = { etag, 'accept-ranges': 'bytes' };
  if (from === undefined || !valid) {
    response.writeHead(200, { ...headers, 'content-length': content.length }).end(content);
    return;
  }
  const rest = content.subarray(Number(from));
  const range = `bytes ${from}-${content.length - 1}/${content.length}`;
  response
    .writeHead(206, { ...headers, 'content-range': range, 'content-length': rest.length })
    .end(rest);
}

export async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  return await buffer(request);
}
