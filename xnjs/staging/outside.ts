import { readFile } from 'node:fs/promises';
import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { pipeline, Transform, type Readable } from 'node:stream';
import { rootCertificates } from 'node:tls';
import { Agent, buildConnector, type Dispatcher } from 'undici';
import { GridError } from '#kernel/errors.js';
import { collectText } from '#kernel/net/collect-text.js';
import { orAborted } from '#kernel/net/deadline.js';
import { createAddressGuard, type AddressGuard } from './addresses.js';
import type { StagingConfig } from './config.js';
import { PassingError, reasonOf, StagingError } from './errors.js';
import { watchSilence } from './silence.js';

export type OutsideRequest = {
  readonly method: 'GET' | 'HEAD' | 'PUT' | 'POST' | 'DELETE';
  readonly headers?: Readonly<Record<string, string>>;
  /** Value of the Authorization header; goes to the host of `url` and to no other. */
  readonly authorization?: string | undefined;
  /** The authorization is our own word for a user: not even the same host gets it by a redirect. */
  readonly isDelegated?: boolean;
  readonly body?: string | Readable;
  readonly signal: AbortSignal;
};
export type OutsideAnswer = {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | undefined>>;
  /** Must be read to its end or destroyed. */
  readonly body: Readable;
};

const maxRedirects = 5;
const redirects = new Set([301, 302, 303, 307, 308]);
/** May be different the next time. */
const passing = new Set([408, 429, 502, 503, 504]);
/** Will be the same the next time. */
const lasting = new Set([
  'ENOTFOUND',
  'ERR_TLS_CERT_ALTNAME_INVALID',
  'CERT_HAS_EXPIRED',
  'CERT_NOT_YET_VALID',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
]);
const connectMs = 15_000;
/** After the last byte of an upload the server still has to bring it to the disk. */
const uploadAnswerMs = 300_000;
const longestErrorBytes = 65_536;

/**
 * How the server reaches hosts that users name: only allowed addresses, checked when connecting; no proxy
 * from the environment; certificates verified; a peer that falls silent is given up.
 */
export class Outside implements AsyncDisposable {
  readonly guard: AddressGuard;
  readonly silenceMs: number;
  /** PEM of all trusted authorities; `undefined`: the well-known ones. */
  readonly trusted: string[] | undefined;
  readonly #agent: Agent;

  constructor(
    { allowAddresses, silenceMs }: Pick<StagingConfig, 'allowAddresses' | 'silenceMs'>,
    trust: readonly string[] = [],
  ) {
    this.guard = createAddressGuard(allowAddresses);
    this.silenceMs = silenceMs;
    this.trusted = trust.length > 0 ? [...rootCertificates, ...trust] : undefined;
    const { guard } = this;
    const { lookup } = guard;
    const ca = this.trusted && { ca: this.trusted };
    const connector = buildConnector({ timeout: connectMs, ...ca, lookup });
    this.#agent = new Agent({
      headersTimeout: 0, // watched by `request`, which knows whether an upload is under way
      bodyTimeout: silenceMs,
      connections: 32,
      connect(options, callback) {
        try {
          guard.checkHost(options.hostname);
        } catch (error) {
          callback(error as Error, null);
          return;
        }
        connector(options, callback);
      },
    });
  }

  static async open(config: StagingConfig): Promise<Outside> {
    const trust = await Promise.all(config.trustFiles.map((path) => readFile(path, 'utf8')));
    return new Outside(config, trust);
  }

  /** Agents of node's own clients under the same rules. */
  nodeAgents(): { readonly http: HttpAgent; readonly https: HttpsAgent } {
    const { lookup } = this.guard;
    const options = { lookup, timeout: this.silenceMs, keepAlive: true };
    return {
      http: new HttpAgent(options),
      https: new HttpsAgent({ ...options, ...(this.trusted && { ca: this.trusted }) }),
    };
  }

  /**
   * One request; a GET or HEAD follows redirects, never from https to http and without credentials to
   * another host.
   * @throws {@link PassingError} no answer, or one that says "later"; {@link StagingError} any other from 300 on
   */
  async request(url: URL, request: OutsideRequest): Promise<OutsideAnswer> {
    let at = url;
    let { authorization } = request;
    for (let hops = 0; ; hops++) {
      const answer = await this.#send(at, { ...request, authorization });
      if (answer.status < 300) return answer;
      const location = redirects.has(answer.status) ? answer.headers['location'] : undefined;
      if (location === undefined) throw await toError(answer, at);
      answer.body.on('error', () => undefined).destroy();
      const next = redirectTarget(location, at);
      if (request.method !== 'GET' && request.method !== 'HEAD')
        throw new StagingError(
          'PEER_FAILED',
          `${at.host} redirects ${request.method} to ${next.host}, which is not followed`,
        );
      if (hops === maxRedirects)
        throw new StagingError(
          'PEER_FAILED',
          `${url.host} redirects more than ${maxRedirects} times`,
        );
      if (next.origin !== at.origin || request.isDelegated) authorization = undefined;
      at = next;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#agent.destroy();
  }

  async #send(url: URL, request: OutsideRequest): Promise<OutsideAnswer> {
    const { method, headers, authorization, body, signal } = request;
    const isUpload = body !== undefined && typeof body !== 'string';
    using silence = watchSilence(
      isUpload ? Math.max(this.silenceMs, uploadAnswerMs) : this.silenceMs,
      () => new PassingError(`${url.host} is silent`),
      signal,
    );
    // ends with the silence, too, but lives as long as the body of the answer
    const cut = new AbortController();
    const abort = (): void => cut.abort(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    const content = isUpload ? observed(body, silence.heard) : body;
    try {
      const sent = this.#agent.request({
        origin: url.origin,
        method,
        path: url.pathname + url.search,
        headers: {
          'user-agent': 'VSite',
          ...headers,
          ...(authorization !== undefined && { authorization }),
        },
        ...(content !== undefined && { body: content }),
        signal: cut.signal,
      });
      const answer = await orAborted(sent, silence.signal);
      answer.body.once('close', () => signal.removeEventListener('abort', abort));
      return { status: answer.statusCode, headers: flatten(answer.headers), body: answer.body };
    } catch (cause) {
      cut.abort();
      signal.removeEventListener('abort', abort);
      if (isUpload) body.destroy();
      signal.throwIfAborted();
      throw toReach(cause, url.host);
    }
  }
}

/** Passes bytes on and says so. */
function observed(body: Readable, heard: () => void): Readable {
  const observer = new Transform({
    transform(chunk, _encoding, done) {
      heard();
      done(null, chunk);
    },
  });
  return pipeline(body, observer, () => undefined);
}

/** Why no answer came. */
function toReach(cause: unknown, host: string): unknown {
  if (cause instanceof GridError) return cause;
  const reason = `${host} cannot be reached: ${reasonOf(cause)}`;
  const code = cause instanceof Error ? (cause as NodeJS.ErrnoException).code : undefined;
  return code !== undefined && lasting.has(code)
    ? new StagingError('PEER_FAILED', reason, { code }, { cause })
    : new PassingError(reason, { cause });
}

function redirectTarget(location: string, from: URL): URL {
  const next = URL.canParse(location, from) ? new URL(location, from) : undefined;
  if (!next || (next.protocol !== 'http:' && next.protocol !== 'https:'))
    throw new StagingError('PEER_FAILED', `${from.host} redirects to what is no web address`);
  if (from.protocol === 'https:' && next.protocol === 'http:')
    throw new StagingError(
      'PEER_FAILED',
      `${from.host} redirects from https to http (${next.host}), which is not followed`,
    );
  next.username = next.password = '';
  return next;
}

function flatten(headers: Dispatcher.ResponseData['headers']): Record<string, string | undefined> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [
      name,
      Array.isArray(value) ? value.join(', ') : value,
    ]),
  );
}

/** The answer as an error, with what the peer says in JSON. */
async function toError({ status, headers, body }: OutsideAnswer, url: URL): Promise<GridError> {
  const text = (await collectText(body, longestErrorBytes).catch(() => undefined)) ?? '';
  const message = /"errorMessage"\s*:\s*("(?:[^"\\]|\\.){1,500}")/.exec(text)?.[1];
  const said = message === undefined ? '' : `: ${JSON.parse(message) as string}`;
  const reason = `${url.host} answers ${status}${said}`;
  if (passing.has(status)) {
    const seconds = Number(headers['retry-after']);
    return new PassingError(reason, {
      retryAfterMs: Number.isFinite(seconds) && seconds > 0 ? seconds * 1_000 : undefined,
    });
  }
  if (status === 404) return new StagingError('NOT_FOUND', reason);
  if (status === 401 || status === 403) return new StagingError('FORBIDDEN', reason);
  if (status === 409 || status === 412) return new StagingError('CONFLICT', reason);
  return new StagingError('PEER_FAILED', reason, { status });
}
