import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import express, { type Request, type Response, type Router } from 'express';
import type { Log } from '#kernel/log.js';
import { sendStream } from '#kernel/net/lending-stream.js';
import type { Audit } from '#kernel/security/audit.js';
import { acceptBody, readJsonBody } from './body.js';
import type { Caller } from './caller.js';
import { restEdge } from './edge.js';
import { preferredType, prefersHtml, toPage } from './html/negotiate.js';
import type { PageFrame } from './html/page.js';
import { requestLogging } from './logging.js';
import type { Answered } from './request-metrics.js';
import { RequestError, type Operation, type OperationFacts, type RawContext } from './operation.js';
import type { ApiInfo } from './openapi/document.js';
import { ApiDocument, apiOperations } from './openapi/operations.js';
import { htmlType, jsonType, type Reply } from './reply.js';
import type { ServedRequest } from './served.js';
import { takeOver, upgradeOf } from './upgrade.js';

/**
 * Finds out who sends a request, {@link anonymous} when it has no credentials. May set headers of the
 * answer (security sessions). @throws `UNAUTHENTICATED`, `SESSION_UNKNOWN`
 */
export type Authenticate = (
  request: IncomingMessage,
  response: ServerResponse,
) => Caller | Promise<Caller>;

/** Made once: every answer ends so, and an error costs a stack trace. */
const clientLeft = new DOMException('the client has left, or has its answer', 'AbortError');

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
 * The whole REST face of a service, to be given to `listen`. Routed by express, without its application, which would
 * give each request and answer another prototype: that alone costs more than the rest of the way.
 */
export function createRestApp(options: RestOptions): RequestListener {
  const { mounts: given, authenticate, externalUrl, log, audit, api, onAnswered } = options;
  const start = given[0]?.prefix ?? '';
  const mounts = api ? withDocument(given, api) : given;
  const app = express.Router({ caseSensitive: true });
  for (const { start: below, operations } of groupsOf(mounts)) {
    const group = express.Router({ caseSensitive: true });
    for (const { operation, path } of operations) {
      const verb = operation.method.toLowerCase() as Lowercase<typeof operation.method>;
      group[verb](path, (request: Request, response: Response) =>
        serve(operation, { authenticate, audit, frameOf }, toServed(request), response),
      );
    }
    app.use(below, group);
  }
  refuseTheRest(app, mounts);
  const begin = requestLogging(log, onAnswered);
  const fail = restEdge(frameOf);
  return (request, response) => {
    const served = begin(request, response);
    // Node's own are all that the router needs
    app(served as unknown as Request, response as Response, (error: unknown) =>
      fail(error, served, response),
    );
  };

  function frameOf(request: ServedRequest): PageFrame {
    const baseUrl = baseUrlOf(request, externalUrl);
    const { caller } = request;
    return { baseUrl, url: baseUrl + pathOf(request).replace(/\/+$/, ''), caller, start };
  }
}

function toServed(request: Request): ServedRequest {
  return request as unknown as ServedRequest; // it came in as one
}

/** Of an address in full, too (RFC 9112, 3.2.2). */
function pathOf({ originalUrl }: ServedRequest): string {
  const path = originalUrl.startsWith('/')
    ? originalUrl
    : originalUrl.replace(/^[a-z]+:\/\/[^/?#]*/i, '');
  return path.split(/[?#]/, 1)[0] ?? '';
}

type Group = {
  readonly start: string;
  readonly operations: { readonly operation: MountedOperation; readonly path: string }[];
};

/** In their order; by how their paths begin, so that a request is compared with those of one resource only. */
function groupsOf(mounts: readonly Mount[]): Group[] {
  const groups: Group[] = [];
  for (const { prefix, operations } of mounts)
    for (const operation of operations) {
      const [element = ''] = /^\/[\w.-]+(?=\/|$)/.exec(operation.path) ?? [];
      const start = prefix + element;
      if (groups.at(-1)?.start !== start) groups.push({ start, operations: [] });
      groups.at(-1)?.operations.push({ operation, path: operation.path.slice(element.length) || '/' }); // prettier-ignore
    }
  return groups;
}

type Serving = {
  readonly authenticate: Authenticate;
  readonly audit: Audit | undefined;
  readonly frameOf: (request: ServedRequest) => PageFrame;
};

/** One request, from who sends it to the answer. */
async function serve(
  operation: MountedOperation,
  { authenticate, audit, frameOf }: Serving,
  request: ServedRequest,
  response: ServerResponse,
): Promise<void> {
  const { logged } = request;
  logged.operation = `${operation.method} ${operation.path}`;
  const caller = await authenticate(request, response);
  request.caller = caller; // for the page of an error
  const { method, produces = [jsonType] } = operation;
  // what is JSON for programs is a page for people
  const isPaged = method === 'GET' && produces.includes(jsonType) && !produces.includes(htmlType);
  const offered = isPaged ? [...produces, htmlType] : [...produces];
  if (method === 'GET' && preferredType(request, offered) === undefined)
    throw new RequestError('NOT_ACCEPTABLE', `available as ${produces.join(', ')}`);
  const input = await readInput(operation, request, response);
  const { baseUrl, url } = frameOf(request);
  let signal: AbortSignal | undefined;
  const context: RawContext = {
    caller,
    baseUrl,
    url,
    get log() {
      return logged.log;
    },
    audit: audit && ((decision) => audit({ ...decision, reqId: logged.reqId })),
    // most never ask for it
    get signal() {
      return (signal ??= closingOf(response));
    },
    headers: request.headers,
    upgrade: upgradeOf(request),
    get body() {
      acceptBody(request, response);
      return request;
    },
    accepts: (types) => preferredType(request, types),
  };
  const reply = await operation.handle(input, context);
  if (isPaged) response.setHeader('vary', 'Accept');
  await send(
    isPaged && prefersHtml(request) ? toPage(reply, frameOf(request), operation) : reply,
    request,
    response,
  );
}

/** Aborted when the client has left, or has its answer. */
function closingOf(response: ServerResponse): AbortSignal {
  const left = new AbortController();
  if (response.destroyed) left.abort(clientLeft);
  else response.once('close', () => left.abort(clientLeft));
  return left.signal;
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
function refuseTheRest(app: Router, mounts: readonly Mount[]): void {
  for (const [path, methods] of methodsByPath(mounts))
    app.all(path, (request, _response, next) => {
      (toServed(request).allowed ??= []).push(...methods);
      next();
    });
  app.use((request, response) => {
    const { allowed: methods = [] } = toServed(request);
    if (methods.length === 0) throw new RequestError('NOT_FOUND', 'no such resource');
    response.setHeader('allow', [...new Set(methods)].join(', '));
    throw new RequestError('METHOD_NOT_ALLOWED', `allowed here: ${methods.join(', ')}`);
  });
}

/** Path, query and JSON body in one. The path wins: it is what was routed and what shows in logs. */
async function readInput(
  { body, bodyLimit, converters }: MountedOperation,
  request: ServedRequest,
  response: ServerResponse,
): Promise<object> {
  const query = queryParameters(request);
  const members =
    body === 'json' ? await readJsonBody(request, response, bodyLimit, converters) : {};
  const twice = Object.keys(query).find((name) => Object.hasOwn(members, name));
  if (twice !== undefined)
    throw new RequestError('BAD_REQUEST', `${twice}: given in the query and in the body`);
  return { ...query, ...members, ...pathParameters(request) };
}

async function send(reply: Reply, request: ServedRequest, response: ServerResponse): Promise<void> {
  const { status, headers, body, upgrade } = reply;
  if (response.writableEnded) {
    if (typeof body === 'object') body.destroy();
    throw clientLeft;
  }
  response.statusCode = status;
  for (const [name, value] of Object.entries(headers))
    if (value !== undefined) response.setHeader(name, value);
  if (upgrade) takeOver(upgrade, request, response);
  else if (typeof body === 'string') {
    response.setHeader('content-length', Buffer.byteLength(body));
    response.end(request.method === 'HEAD' ? undefined : body);
  } else if (body === undefined || request.method === 'HEAD') {
    body?.destroy();
    response.end();
  } else {
    await sendStream(body, response);
  }
}

function pathParameters({ params }: ServedRequest): Record<string, string> {
  const all: Record<string, string> = {};
  for (const [name, value] of Object.entries(params))
    all[name] = Array.isArray(value) ? value.join('/') : value;
  return all;
}

function queryParameters({ originalUrl: url }: ServedRequest): Record<string, string> {
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

/** The gateway says under which address the client reached it (unicore-rest 1.2). */
function baseUrlOf({ headers }: ServedRequest, externalUrl: string): string {
  const gateway = headers['x-unicore-gateway'];
  const usable = typeof gateway === 'string' && /^https?:\/\/[\w.:[\]/~%-]{1,512}$/.test(gateway);
  return (usable ? gateway : externalUrl).replace(/\/+$/, '');
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
