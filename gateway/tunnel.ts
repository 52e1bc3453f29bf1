import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { responseAfterUpgrade } from '#kernel/http/upgrade.js';
import { keepResponseHeaders, type HeadersFor } from './headers.js';
import type { ExchangeFacts } from './exchange.js';
import { GatewayError, sendError } from './reply.js';

/** What may take over a connection; both are bytes both ways after the answer. */
const protocols = new Set(['unicore-socket-forwarding', 'websocket']);

/** @throws {@link GatewayError} `NOT_IMPLEMENTED` for any other protocol */
export function checkUpgrade({ method, headers }: IncomingMessage): string {
  const { upgrade = '' } = headers;
  if (method === 'GET' && protocols.has(upgrade.toLowerCase())) return upgrade;
  throw new GatewayError('NOT_IMPLEMENTED', 'this protocol upgrade is not supported');
}

/** Asks the site for the upgrade; once it agrees, connects both ends until either is done. */
export function openTunnel(
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  facts: Pick<ExchangeFacts, 'site' | 'path' | 'own' | 'headersFor'> & { protocol: string },
): void {
  const { site, path, own, protocol } = facts;
  const headersFor: HeadersFor = (method, target) => {
    const { kept, added } = facts.headersFor(method, target);
    return { kept, added: [...added, 'Connection', 'Upgrade', 'Upgrade', protocol] };
  };
  const upstream = site.pick().request('GET', path, headersFor, { agent: false });
  const abandon = () => upstream.destroy();
  socket.once('close', abandon).once('error', abandon);
  upstream.on('timeout', () => upstream.destroy(new Error('the site is silent')));
  upstream.on('error', () => {
    if (socket.destroyed) return;
    const error = new GatewayError('SITE_UNAVAILABLE', `site ${site.name} is not available`);
    sendError(responseAfterUpgrade(request), error, own);
  });
  upstream.on('response', (answer) => {
    const response = responseAfterUpgrade(request);
    const kept = keepResponseHeaders(answer.rawHeaders, answer.headers.connection);
    try {
      response.writeHead(answer.statusCode ?? 502, [...kept, ...own]);
    } catch {
      // Our parser is more tolerant than our writer
      socket.destroy();
      return;
    }
    answer.once('error', () => socket.destroy());
    answer.pipe(response);
  });
  upstream.on('upgrade', (answer, far, farHead) => {
    far.setTimeout(0);
    const kept = keepResponseHeaders(answer.rawHeaders, undefined);
    const lines = [...kept, 'Connection', 'Upgrade', 'Upgrade', answer.headers.upgrade ?? protocol];
    // On its own: clients lose what comes together with it
    socket.write(headBlock([...lines, ...own]), () => {
      if (farHead.length > 0) socket.write(farHead);
      if (head.length > 0) far.write(head);
      join(socket, far);
    });
  });
  upstream.end();
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
