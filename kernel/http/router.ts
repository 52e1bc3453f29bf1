import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import express, { type Request, type Response, type Router } from 'express';
import type { Log } from '#kernel/log.js';
import { sendStream } from '#kernel/net/lending-stream.js';
import type { Audit } from '#kernel/security/audit.js';
import type { HeaderSink } from './answer-head.js';
import { readJsonBody, refuseForm } from './body.js';
import type { Caller } from './caller.js';
import { clientLeft, RequestContext } from './context.js';
import { restEdge } from './edge.js';
import { foreignPageOf } from './foreign-pages.js';
import { preferredType, prefersHtml, toPage } from './html/negotiate.js';
import type { PageFrame } from './html/page.js';
import { requestLogging } from './logging.js';
import type { Answered } from './request-metrics.js';
import { RequestError, type Operation, type OperationFacts, type RawContext } from './operation.js';
import { OperationTable, type FoundOperation } from './operation-table.js';
import type { ApiInfo } from './openapi/document.js';
import { ApiDocument, apiOperations } from './openapi/operations.js';
import { htmlType, jsonType, type Reply } from './reply.js';
import type { ServedRequest } from './served.js';
import { takeOver } from './upgrade.js';

/**
 * Finds out who sends a request, {@link anonymous} when it has no credentials. May set headers of the
 * answer (security sessions). @throws `UNAUTHENTICATED`, `SESSION_UNKNOWN`
 */
export type Authenticate = {
  (request: IncomingMessage, response: HeaderSink): Caller | Promise<Caller>;
  /** The caller as he is by now; absent: as he was. */
  readonly renew?: (caller: Caller) => Promise<Caller>;
};

/** Operations bound to what they work with. */
export type Mount = {
  readonly prefix: string;
  readonly operations: readonly MountedOperation[];
};
type MountedOperation = OperationFacts & {
  readonly handle: (raw: object, context: RawContext) => Promise<Reply>;
};

/** `mount('/rest/core', [getSite, …], deps)` */
export function mount<Deps>(
  prefix: string,
  operations: readonly Operation<Deps>[],
  deps: Deps,
): Mount {
  return {
    prefix,
    operations: operations.map(({ handle, ...operation }) => ({
      ...operation,
      handle: (raw, context) => handle(deps, raw, context),
    })),
  };
}

export type RestOptions = {
  readonly mounts: readonly Mount[];
  readonly authenticate: Authenticate;
  /** Our address for requests that did not come through a gateway. */
  readonly externalUrl: string;
  readonly log: Log;
  /** Told of each request when it is over. */
  readonly onAnswered?: ((answered: Answered) => void) | undefined;
  /** Where security decisions are written down. */
  readonly audit?: Audit | undefined;
  /** Serves the document of this interface at `/rest/openapi.json`, and as a page at `/rest/docs`. */
  readonly api?: ApiInfo;
};

/**
 * The whole REST face of a service, to be given to `listen`. Operations are found by a table of their own; express has
 * what is left, other methods and other paths: its router, without its application, which would give each request and
 * answer another prototype.
 */
export function createRestApp(options: RestOptions): RequestListener {
  const { mounts: given, authenticate, externalUrl, log, audit, api, onAnswered } = options;
  const start = given[0]?.prefix ?? '';
  const mounts = api ? withDocument(given, api) : given;
  const table = new OperationTable(mounts.flatMap(toServable));
  const rest = refuseTheRest(mounts);
  const begin = requestLogging(log, onAnswered);
  const baseUrlOf = baseUrls(externalUrl);
  const fail = restEdge(frameOf);
  const serving: Serving = { authenticate, audit, frameOf };
  return (request, response) => {
    const served = begin(request, response);
    const refused = (error: unknown): void => {
      try {
        fail(error, served, response);
      } catch (failure) {
        // one answer is lost, and not the server
        served.logged.log.error({ err: failure }, 'an error could not be answered');
        response.destroy();
      }
    };
    try {
      const found = table.find(request.method, pathOf(request));
      if (found) serve(found, serving, served, response).catch(refused);
      // Node's own are all that the router needs
      else rest(request as Request, response as Response, refused);
    } catch (error) {
      refused(error);
    }
  };

  function frameOf(request: ServedRequest): PageFrame {
    const baseUrl = baseUrlOf(request);
    const { caller } = request;
    return { baseUrl, url: baseUrl + pathOf(request).replace(/\/+$/, ''), caller, start };
  }
}

/** Of an address in full, too (RFC 9112, 3.2.2). */
function pathOf({ url = '' }: IncomingMessage): string {
  const path = url.startsWith('/') ? url : url.replace(/^[a-z]+:\/\/[^/?#]*/i, '');
  const end = path.search(/[?#]/);
  return end < 0 ? path : path.slice(0, end);
}

type Servable = MountedOperation & {
  /** By which it is logged and counted. */
  readonly label: string;
  /** What is JSON for programs is a page for people. */
  readonly isPaged: boolean;
  readonly offered: readonly string[];
};

function toServable({ prefix, operations }: Mount) {
  return operations.map((operation) => {
    const { method, path, produces = [jsonType] } = operation;
    const isPaged = method === 'GET' && produces.includes(jsonType) && !produces.includes(htmlType);
    const offered = isPaged ? [...produces, htmlType] : produces;
    const label = `${method} ${path}`;
    const servable: Servable = { ...operation, label, isPaged, offered };
    return { method, path: prefix + path, operation: servable };
  });
}

type Serving = {
  readonly authenticate: Authenticate;
  readonly audit: Audit | undefined;
  readonly frameOf: (request: ServedRequest) => PageFrame;
};

/** One request, from who sends it to the answer. */
async function serve(
  { operation, params }: FoundOperation<Servable>,
  { authenticate, audit, frameOf }: Serving,
  request: ServedRequest,
  response: ServerResponse,
): Promise<void> {
  const { isPaged, offered, label } = operation;
  request.logged.operation = label;
  const { baseUrl, url } = frameOf(request);
  const page = foreignPageOf(request, baseUrl);
  if (page !== undefined) refusePage(page, { label, url }, request, audit);
  const caller = await authenticate(request, request.head);
  request.caller = caller; // for the page of an error
  if (operation.method === 'GET' && preferredType(request, offered) === undefined) {
    const { produces = [jsonType] } = operation;
    throw new RequestError('NOT_ACCEPTABLE', `available as ${produces.join(', ')}`);
  }
  const input = await readInput(operation, params, request, response);
  const renew = async (): Promise<Caller> => (await authenticate.renew?.(caller)) ?? caller;
  const context = new RequestContext(request, response, { caller, renew, baseUrl, url, audit });
  const reply = await operation.handle(input, context);
  if (isPaged) request.head.setHeader('vary', 'Accept');
  const isPage = isPaged && prefersHtml(request);
  await send(isPage ? toPage(reply, frameOf(request), operation) : reply, request, response);
}

/** @throws `FORBIDDEN`; who sent it is not even looked at, as that would count as a login */
function refusePage(
  page: string,
  { label, url }: { readonly label: string; readonly url: string },
  { logged: { reqId } }: ServedRequest,
  audit: Audit | undefined,
): never {
  const why = `sent by a page of ${page}`;
  audit?.({ what: 'access', allowed: false, why, operation: label, resource: url }, reqId);
  throw new RequestError('FORBIDDEN', `pages of ${page} may not change anything here`);
}

/** The document's own operations are in it, too. */
function withDocument(mounts: readonly Mount[], info: ApiInfo): readonly Mount[] {
  const api: ApiDocument = new ApiDocument(info, () => all);
  const all: readonly Mount[] = [
    ...mounts,
    mount('/rest', apiOperations, { api, start: mounts[0]?.prefix ?? '' }),
  ];
  return all;
}

/** What no operation is there for: another method of a known path, or nothing at all. */
function refuseTheRest(mounts: readonly Mount[]): Router {
  const rest = express.Router({ caseSensitive: true });
  for (const [path, methods] of methodsByPath(mounts))
    rest.all(path, (request, _response, next) => {
      (toServed(request).allowed ??= []).push(...methods);
      next();
    });
  rest.use((request, response) => {
    const { allowed: methods = [] } = toServed(request);
    if (methods.length === 0) throw new RequestError('NOT_FOUND', 'no such resource');
    response.setHeader('allow', [...new Set(methods)].join(', '));
    throw new RequestError('METHOD_NOT_ALLOWED', `allowed here: ${methods.join(', ')}`);
  });
  return rest;
}

function toServed(request: Request): ServedRequest {
  return request as unknown as ServedRequest; // it came in as one
}

/** Path, query and JSON body in one. The path wins: it is what was routed and what shows in logs. */
async function readInput(
  { method, body = 'none', query: mayBeInQuery = [], bodyLimit, converters }: MountedOperation,
  params: Readonly<Record<string, string>>,
  request: ServedRequest,
  response: ServerResponse,
): Promise<object> {
  const query = queryParameters(request);
  if (method === 'POST' && body !== 'raw') refuseForm(request);
  if (body !== 'json') return { ...query, ...params };
  // what a body says needs a type that no form has: a query would get round that
  const misplaced = Object.keys(query).find((name) => !mayBeInQuery.includes(name));
  if (misplaced !== undefined)
    throw new RequestError('BAD_REQUEST', `${misplaced}: not taken from the query, only from the body`); // prettier-ignore
  const members = await readJsonBody(request, response, bodyLimit, converters);
  const twice = Object.keys(query).find((name) => Object.hasOwn(members, name));
  if (twice !== undefined)
    throw new RequestError('BAD_REQUEST', `${twice}: given in the query and in the body`);
  return { ...query, ...members, ...params };
}

async function send(reply: Reply, request: ServedRequest, response: ServerResponse): Promise<void> {
  const { status, headers, body, upgrade } = reply;
  if (response.writableEnded) {
    if (typeof body === 'object') body.destroy();
    throw clientLeft;
  }
  const { head } = request;
  for (const name in headers) {
    const value = headers[name];
    if (value !== undefined) head.setHeader(name, value);
  }
  if (typeof body === 'string') {
    head.setHeader('content-length', Buffer.byteLength(body));
    response.writeHead(status, head.list).end(request.method === 'HEAD' ? undefined : body);
    return;
  }
  // a stream that fails at once is no answer yet
  response.statusCode = status;
  head.setOn(response);
  if (upgrade) takeOver(upgrade, request, response);
  else if (body === undefined || request.method === 'HEAD') {
    body?.destroy();
    response.end();
  } else {
    await sendStream(body, response);
  }
}

function queryParameters({ url = '' }: ServedRequest): Record<string, string> {
  const at = url.indexOf('?');
  if (at < 0) return {};
  const entries = [...new URLSearchParams(url.slice(at + 1))];
  const names = entries.map(([name]) => name);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new RequestError('BAD_REQUEST', `${twice}: given twice`);
  const cut = entries.find(([, value]) => value.includes('\0')); // databases end a query there
  if (cut) throw new RequestError('BAD_REQUEST', `${cut[0]}: must not contain NUL`);
  return Object.fromEntries(entries);
}

/** The gateway says under which address the client reached it (unicore-rest 1.2): mostly the same as before. */
function baseUrls(externalUrl: string): (request: IncomingMessage) => string {
  const external = externalUrl.replace(/\/+$/, '');
  let last = { gateway: '', baseUrl: external };
  return ({ headers }) => {
    const gateway = headers['x-unicore-gateway'];
    if (typeof gateway !== 'string') return external;
    if (gateway === last.gateway) return last.baseUrl;
    const usable = /^https?:\/\/[\w.:[\]/~%-]{1,512}$/.test(gateway);
    last = { gateway, baseUrl: usable ? gateway.replace(/\/+$/, '') : external };
    return last.baseUrl;
  };
}

function methodsByPath(mounts: readonly Mount[]): Map<string, string[]> {
  const paths = new Map<string, string[]>();
  for (const { prefix, operations } of mounts)
    for (const { method, path } of operations) {
      const methods = paths.get(prefix + path) ?? [];
      methods.push(...(method === 'GET' ? ['GET', 'HEAD'] : [method]));
      paths.set(prefix + path, methods);
    }
  return paths;
}
