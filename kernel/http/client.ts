import type { SecureContextOptions } from 'node:tls';
import type { Duplex, Readable } from 'node:stream';
import { Pool, type Dispatcher } from 'undici';
import { linkSignals, startDeadline } from '#kernel/net/deadline.js';
import {
  readAnswer,
  toGridError,
  unavailable,
  type HttpAnswer,
  type JsonAnswer,
  type StreamAnswer,
} from './client-answers.js';
import { openUpgrade, type UpgradeOptions } from './client-upgrade.js';
import { openWebSocket, type WebSocket } from './client-websocket.js';

export type { HttpAnswer, JsonAnswer, StreamAnswer } from './client-answers.js';

export type HttpClientOptions = {
  /** `https://host:port/VSITE`; every path is appended to it. */
  readonly baseUrl: string;
  /** Connects to this unix socket, whatever host `baseUrl` names. */
  readonly socketPath?: string;
  readonly tls?: SecureContextOptions & { readonly servername?: string };
  readonly auth?:
    { readonly user: string; readonly password: string } | { readonly bearer: string };
  /** Sent with every request. */
  readonly headers?: Readonly<Record<string, string>>;
  /** For a JSON call as a whole, for the silence within a download; default 30 s. */
  readonly timeoutMs?: number;
  /** Largest JSON answer in bytes; default 16 MiB. */
  readonly maxBytes?: number;
  readonly connections?: number;
};

export type CallOptions = {
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
};

export type HttpClient = AsyncDisposable & {
  json(method: Method, path: string, body?: object, options?: CallOptions): Promise<JsonAnswer>;
  /** Posts fields as the form of a page does; whatever the answer says beside its status is left aside. */
  form(
    path: string,
    fields: Readonly<Record<string, string>>,
    options?: CallOptions,
  ): Promise<HttpAnswer>;
  /** Sends a stream, which may take any time as long as bytes move. */
  upload(
    method: 'PUT' | 'POST',
    path: string,
    source: Readable,
    options?: CallOptions & { readonly sizeBytes?: number },
  ): Promise<JsonAnswer>;
  download(path: string, options?: CallOptions): Promise<StreamAnswer>;
  /** Goes over to another protocol; a connection of its own, and either side may end its half first. */
  upgrade(path: string, protocol: string, options?: CallOptions): Promise<Duplex>;
  /** A WebSocket of its own. */
  webSocket(path: string, options?: CallOptions): Promise<WebSocket>;
  close(): Promise<void>;
};
type Method = 'GET' | 'POST' | 'PUT' | 'DELETE';

/** After the last byte of an upload the server still has to bring it to the disk. */
const uploadAnswerTimeoutMs = 300_000;
const longestFormAnswerBytes = 65_536;

/**
 * The project's HTTP client. Answers from 400 on are thrown as `GridError` with the peer's text,
 * the code chosen by status; redirects are not followed.
 * @throws `SITE_UNAVAILABLE` nothing answers in time, `PEER_FAILED` the answer makes no sense
 */
export function createHttpClient(options: HttpClientOptions): HttpClient {
  const { timeoutMs = 30_000, maxBytes = 16 * 1024 * 1024 } = options;
  const base = new URL(options.baseUrl);
  const common = { accept: 'application/json', ...options.headers, ...authorization(options.auth) };
  const pool = createPool(base.origin, options, timeoutMs);
  const send = createSend(pool, base, common);
  const late = (): Error => new Error(`not within ${timeoutMs} ms`);
  return {
    async json(method, path, body, { headers, signal } = {}) {
      const type = body && { 'content-type': 'application/json' };
      using deadline = startDeadline(timeoutMs, late);
      using until = linkSignals(signal, deadline.signal);
      const call = { headers: { ...type, ...headers }, signal: until.signal };
      const content = body && { body: JSON.stringify(body) };
      return await readAnswer(await send(method, path, call, content), maxBytes, base.host);
    },
    async form(path, fields, { headers, signal } = {}) {
      const type = { 'content-type': 'application/x-www-form-urlencoded' };
      using deadline = startDeadline(timeoutMs, late);
      using until = linkSignals(signal, deadline.signal);
      const call = { headers: { ...type, ...headers }, signal: until.signal };
      const content = { body: new URLSearchParams(fields).toString() };
      const answer = await send('POST', path, call, content);
      await answer.body.dump({ limit: longestFormAnswerBytes, signal: until.signal });
      return { status: answer.statusCode, headers: answer.headers };
    },
    async upload(method, path, source, { sizeBytes, headers, signal } = {}) {
      const length = sizeBytes === undefined ? {} : { 'content-length': `${sizeBytes}` };
      const type = { 'content-type': 'application/octet-stream' };
      const call = { headers: { ...type, ...length, ...headers }, ...(signal && { signal }) };
      const content = { body: source, headersTimeout: uploadAnswerTimeoutMs };
      return readAnswer(await send(method, path, call, content), maxBytes, base.host);
    },
    async download(path, { headers, signal } = {}) {
      const accept = { accept: 'application/octet-stream' };
      const answer = await send('GET', path, {
        headers: { ...accept, ...headers },
        ...(signal && { signal }),
      });
      return { status: answer.statusCode, headers: answer.headers, body: answer.body };
    },
    ...createUpgrades(base, { headers: common, tls: options.tls, timeoutMs }),
    close: () => pool.destroy(),
    [Symbol.asyncDispose]: () => pool.destroy(),
  };
}

type Send = (
  method: Method,
  path: string,
  options: CallOptions,
  content?: Pick<Dispatcher.RequestOptions, 'body' | 'headersTimeout'>,
) => Promise<Dispatcher.ResponseData>;

function createSend(pool: Pool, base: URL, common: NonNullable<CallOptions['headers']>): Send {
  return async (method, path, { headers, signal }, content = {}) => {
    const answer = await pool
      .request({
        method,
        path: pathBelow(base, path),
        headers: { ...common, ...headers },
        ...content,
        ...(signal && { signal }),
      })
      .catch((cause: unknown) => {
        throw unavailable(cause, base.host);
      });
    if (answer.statusCode < 400) return answer;
    throw await toGridError(answer.statusCode, answer.body, `${method} ${path}`);
  };
}

/** What takes a connection of its own. */
function createUpgrades(
  base: URL,
  { headers: common, tls, timeoutMs }: Pick<UpgradeOptions, 'headers' | 'tls' | 'timeoutMs'>,
): Pick<HttpClient, 'upgrade' | 'webSocket'> {
  const urlOf = (path: string): URL => new URL(base.origin + pathBelow(base, path));
  return {
    upgrade: (path, protocol, { headers, signal } = {}) =>
      openUpgrade({
        ...{ url: urlOf(path), protocol, timeoutMs, signal, tls },
        headers: { ...common, ...headers },
      }),
    webSocket: (path, { headers, signal } = {}) =>
      openWebSocket({
        ...{ url: urlOf(path), timeoutMs, signal, tls },
        headers: { ...common, accept: '*/*', ...headers },
      }),
  };
}

function pathBelow({ pathname }: URL, path: string): string {
  return pathname.replace(/\/+$/, '') + path;
}

function createPool(
  origin: string,
  { socketPath, tls, connections = 16 }: HttpClientOptions,
  timeout: number,
): Pool {
  return new Pool(origin, {
    connections,
    headersTimeout: timeout,
    bodyTimeout: timeout,
    connect: { timeout, ...tls, ...(socketPath !== undefined && { socketPath }) },
  });
}

function authorization(auth: HttpClientOptions['auth']): { authorization?: string } {
  if (auth === undefined) return {};
  if ('bearer' in auth) return { authorization: `Bearer ${auth.bearer}` };
  const credentials = Buffer.from(`${auth.user}:${auth.password}`).toString('base64');
  return { authorization: `Basic ${credentials}` };
}
