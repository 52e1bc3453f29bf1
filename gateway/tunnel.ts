import type { ClientRequest, IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { hasBody, responseAfterUpgrade } from '#kernel/http/upgrade.js';
import { isUnreached, type Backend } from './backend.js';
import { keepResponseHeaders, type HeadersFor } from './headers.js';
import type { ExchangeFacts } from './exchange.js';
import { GatewayError, sendError } from './reply.js';

/** What may take over a connection; both are bytes both ways after the answer. */
const protocols = new Set(['unicore-socket-forwarding', 'websocket']);

/** Whether a request opens a tunnel; whatever else it would go over to, it is an ordinary one (unicore-rest 6.3). */
export function opensTunnel(request: IncomingMessage): boolean {
  const { method, headers } = request;
  return method === 'GET' && !hasBody(request) && protocols.has(protocolOf(headers).toLowerCase());
}

const protocolOf = ({ upgrade = '' }: IncomingMessage['headers']): string => upgrade;

type TunnelFacts = Pick<ExchangeFacts, 'site' | 'backend' | 'path' | 'own' | 'headersFor'>;

/** Asks the site for the upgrade; once it agrees, connects both ends until either is done. */
export function openTunnel(
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  facts: TunnelFacts,
): void {
  const { site, own } = facts;
  const tried = new Set<Backend>();
  let upstream: ClientRequest | undefined;
  const abandon = () => upstream?.destroy();
  socket.once('close', abandon).once('error', abandon);
  const ask = (backend: Backend): void => {
    tried.add(backend);
    upstream = askFor(protocolOf(request.headers), backend, facts);
    upstream.on('error', (err) => {
      if (socket.destroyed) return;
      const next = isUnreached(err) ? site.another(tried) : undefined;
      if (next) ask(next);
      else {
        const error = new GatewayError('SITE_UNAVAILABLE', `site ${site.name} is not available`);
        sendError(responseAfterUpgrade(request), error, own);
      }
    });
    upstream.on('response', (answer) => refuse(request, answer, own));
    upstream.on('upgrade', (answer, far, farHead) => {
      far.setTimeout(0);
      // On its own: clients lose what comes together with it
      socket.write(headBlock([...agreed(request, answer), ...own]), () => {
        if (farHead.length > 0) socket.write(farHead);
        if (head.length > 0) far.write(head);
        join(socket, far);
      });
    });
    upstream.end();
  };
  ask(facts.backend);
}

function askFor(protocol: string, backend: Backend, facts: TunnelFacts): ClientRequest {
  const headersFor: HeadersFor = (method, target) => {
    const { kept, added } = facts.headersFor(method, target);
    return { kept, added: [...added, 'Connection', 'Upgrade', 'Upgrade', protocol] };
  };
  const upstream = backend.request('GET', facts.path, headersFor, { agent: false });
  return upstream.on('timeout', () => upstream.destroy(new Error('the site is silent')));
}

/** The site answers as it would answer any request. */
function refuse(request: IncomingMessage, answer: IncomingMessage, own: TunnelFacts['own']): void {
  const response = responseAfterUpgrade(request);
  const kept = keepResponseHeaders(answer.rawHeaders, answer.headers.connection);
  try {
    response.writeHead(answer.statusCode ?? 502, [...kept, ...own]);
  } catch {
    // Our parser is more tolerant than our writer
    request.socket.destroy();
    return;
  }
  answer.once('error', () => request.socket.destroy());
  answer.pipe(response);
}

function agreed(request: IncomingMessage, answer: IncomingMessage): string[] {
  const kept = keepResponseHeaders(answer.rawHeaders, undefined);
  const protocol = answer.headers.upgrade ?? protocolOf(request.headers);
  return [...kept, 'Connection', 'Upgrade', 'Upgrade', protocol];
}

/** Lets an end of one side reach the other; a failure of one ends both. */
function join(a: Duplex, b: Duplex): void {
  a.allowHalfOpen = b.allowHalfOpen = true;
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    from.pipe(to);
    from.on('error', () => to.destroy());
    from.once('close', () => to.destroy());
  }
}

function headBlock(headers: readonly string[]): string {
  const lines = headers.flatMap((text, i) =>
    i % 2 === 0 ? [`${text}: ${headers[i + 1] ?? ''}`] : [],
  );
  return ['HTTP/1.1 101 Switching Protocols', ...lines, '', ''].join('\r\n');
}
