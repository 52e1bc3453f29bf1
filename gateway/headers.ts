import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';

/** Headers as Node reads and writes them raw: name, value, name, value, … */
export type RawHeaders = readonly string[];

/** Of a request, as a site gets to see it. */
export type SiteHeaders = {
  /** The client's. */
  readonly kept: RawHeaders;
  /** The gateway's; none of these names is in `kept`. */
  readonly added: RawHeaders;
};
/** They may depend on the request line that the server gets to see, and are made anew for each attempt. */
export type HeadersFor = (method: string, target: string) => SiteHeaders;

/** About one connection, not about the message (RFC 9110, 7.6.1). Framing is written anew. */
const hopByHop = [
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
];
/** What only a gateway may say; the whole families, whatever is added to them one day. */
const gatewayFamilies = ['x-unicore-consignor', 'x-unicore-gateway', 'x-forwarded'];

const fromClient = new Set([...hopByHop, 'host', 'forwarded', 'x-real-ip', 'x-request-id']);
const aboutThePage = new Set(['origin', 'sec-fetch-site']);
const fromSite = new Set([
  ...hopByHop,
  ...['date', 'x-frame-options', 'x-request-id'],
  // a script of one site would get to see all that browsers ask of the others
  'service-worker-allowed',
]);

/**
 * What of a client's request headers goes on to the site.
 * @param isVouchedFor the gateway has let in whose page it is; a site, which knows nothing of that, would not
 */
export function keepRequestHeaders(
  raw: RawHeaders,
  connection: string | undefined,
  { isVouchedFor = false } = {},
): string[] {
  return keep(
    raw,
    namedBy(connection),
    (name) => fromClient.has(name) || isGateways(name) || (isVouchedFor && aboutThePage.has(name)),
  );
}

/** What of a site's answer goes on to the client. */
export function keepResponseHeaders(
  raw: RawHeaders,
  connection: string | undefined,
  { ownsCors = false } = {},
): string[] {
  return keep(raw, namedBy(connection), (name) => !passesToClient(name, { ownsCors }));
}

/** @param name in lower case */
export function passesToClient(
  name: string,
  { ownsCors }: { readonly ownsCors: boolean },
): boolean {
  return !fromSite.has(name) && !(ownsCors && name.startsWith('access-control-'));
}

/** Makes a request in this process what a site would have read from a connection. */
export function rewriteRequest(
  request: IncomingMessage,
  target: string,
  { kept, added }: SiteHeaders,
): void {
  const { headers: parsed } = request;
  const headers: IncomingHttpHeaders = {};
  for (let at = 0; at + 1 < kept.length; at += 2) {
    const name = kept[at]?.toLowerCase() ?? '';
    headers[name] = parsed[name]; // of several lines of one name Node has made one value
  }
  for (let at = 0; at + 1 < added.length; at += 2)
    headers[added[at]?.toLowerCase() ?? ''] = added[at + 1];
  request.url = target;
  request.headers = headers;
  request.rawHeaders = [...kept, ...added];
}

function keep(
  raw: RawHeaders,
  named: readonly string[] | undefined,
  isDropped: (name: string) => boolean,
): string[] {
  const kept: string[] = [];
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i] ?? '';
    const lower = name.toLowerCase();
    if (!isDropped(lower) && !named?.includes(lower)) kept.push(name, raw[i + 1] ?? '');
  }
  return kept;
}

function isGateways(name: string): boolean {
  if (!name.startsWith('x')) return false;
  // Some back ends read `_` as `-`
  const plain = name.includes('_') ? name.replaceAll('_', '-') : name;
  return gatewayFamilies.some((family) => plain.startsWith(family));
}

/** Headers that `Connection` declares to be about the connection too. */
function namedBy(connection: string | undefined): string[] | undefined {
  if (connection === undefined || /^(?:keep-alive|close|upgrade)$/i.test(connection)) {
    return undefined;
  }
  // Length and framing are not the sender's to hide
  return connection
    .toLowerCase()
    .split(',')
    .map((name) => name.trim())
    .filter((name) => name !== 'content-length' && name !== 'expect');
}

const host = /^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?$/;

/** A `Host` header that is safe to build links from. */
export function isHost(value: string): boolean {
  return host.test(value);
}
