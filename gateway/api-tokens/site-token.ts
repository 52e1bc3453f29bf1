import { decodeJwt } from 'jose';
import type { ClientRequest, IncomingMessage } from 'node:http';
import { z } from 'zod';
import type { Log } from '#kernel/log.js';
import { collectText } from '#kernel/net/collect-text.js';
import { linkSignals, startDeadline } from '#kernel/net/deadline.js';
import { Backend, isUnreached, type BackendOptions } from '../backend.js';
import type { HeadersFor } from '../headers.js';
import { GatewayError } from '../reply.js';
import type { Site } from '../site.js';
import type { Wish } from './wish.js';

/** What came of asking a site. */
export type SiteToken = { readonly site: string } & (
  { readonly token: string; readonly endsMs: number | undefined } | { readonly reason: string }
);

export type Asking = {
  readonly accessToken: string;
  readonly wish: Wish;
  /** The gateway's address as the user knows it. */
  readonly origin: string;
  readonly peer: string;
  readonly reqId: string;
  readonly signal: AbortSignal;
  readonly log: Log;
};

const timeoutMs = 20_000;
const longestAnswer = 16_384;
const longestReason = 300;
/** Seconds, up to the last day that a clock has. */
const Ends = z.number().min(0).max(8.64e12).optional();

/** Asks a site behind this gateway, as if the user did so with a token of the provider. Never throws. */
export async function askSite(site: Site, path: string, asking: Asking): Promise<SiteToken> {
  const { origin, peer, wish } = asking;
  const about = ['X-UNICORE-Gateway', `${origin}/${site.name}`, 'X-UNICORE-Consignor-IP', peer];
  const headersFor: HeadersFor = () => ({ kept: [], added: [...about, ...headersOf(asking)] });
  const tried = new Set<Backend>();
  return await tokenOf(site.name, asking, async (signal) => {
    for (let backend = site.pick(); ;) {
      tried.add(backend);
      try {
        return await answerOf(backend.request('GET', path + queryOf(wish), headersFor, { signal }));
      } catch (error) {
        const next = error instanceof Error && isUnreached(error) && site.another(tried);
        if (!next) throw error;
        backend = next;
      }
    }
  });
}

/** As {@link askSite}, where a site's tokens come from a server of their own. */
export async function askServer(
  name: string,
  options: BackendOptions,
  asking: Asking,
): Promise<SiteToken> {
  const backend = new Backend(options);
  const headersFor: HeadersFor = () => ({ kept: [], added: headersOf(asking) });
  return await tokenOf(name, asking, (signal) =>
    answerOf(backend.request('GET', queryOf(asking.wish), headersFor, { signal })),
  ).finally(() => backend.close());
}

type SiteAnswer = { readonly status: number; readonly text: string };

async function tokenOf(
  site: string,
  { signal: outer, reqId, log }: Asking,
  ask: (signal: AbortSignal) => Promise<SiteAnswer>,
): Promise<SiteToken> {
  const late = () => new GatewayError('PEER_FAILED', 'it does not answer in time');
  using deadline = startDeadline(timeoutMs, late);
  using until = linkSignals(outer, deadline.signal);
  try {
    const { status, text } = await ask(until.signal);
    return status === 200 ? toToken(site, text.trim()) : { site, reason: reasonOf(status, text) };
  } catch (error) {
    const err: unknown = deadline.signal.aborted ? deadline.signal.reason : error;
    log.warn({ reqId, vsite: site, err }, 'site failed');
    // what others say may name addresses
    const reason = err instanceof GatewayError ? err.message : 'it is not available at the moment';
    return { site, reason };
  }
}

/** It is looked at for what the page says; whether it is good is the site's to know. */
function toToken(site: string, token: string): SiteToken {
  try {
    // users paste it into files of lines
    if (!/^[\w-]+\.[\w-]+\.[\w-]*$/.test(token)) throw new Error('no JWT');
    const exp = Ends.parse(decodeJwt(token).exp);
    return { site, token, endsMs: exp === undefined ? undefined : exp * 1_000 };
  } catch (cause) {
    throw new GatewayError('PEER_FAILED', 'its answer is no token', { site }, { cause });
  }
}

function headersOf({ accessToken, wish, reqId }: Asking): string[] {
  const { preferences } = wish;
  return [
    ...['Authorization', `Bearer ${accessToken}`, 'Accept', 'text/plain', 'X-Request-Id', reqId],
    ...(preferences === undefined ? [] : ['X-UNICORE-User-Preferences', preferences]),
  ];
}

function queryOf({ lifetimeSeconds, renewable, limited }: Wish): string {
  const flags = `${renewable ? '&renewable=true' : ''}${limited ? '&limited=true' : ''}`;
  return `?lifetime=${lifetimeSeconds}${flags}`;
}

async function answerOf(request: ClientRequest): Promise<SiteAnswer> {
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    request.once('response', resolve).once('close', () => reject(new Error('it hung up')));
    request.on('error', reject).once('timeout', () => request.destroy(new Error('it is silent')));
    request.end();
  });
  const text = await collectText(answer, longestAnswer);
  if (text === undefined) throw new GatewayError('PEER_FAILED', 'its answer is too long');
  return { status: answer.statusCode ?? 0, text };
}

/** Errors of sites are JSON (unicore-rest 4.1); whatever else there is, is for no user's eyes. */
function reasonOf(status: number, text: string): string {
  try {
    const { errorMessage } = JSON.parse(text) as { errorMessage?: unknown };
    if (typeof errorMessage === 'string')
      return `${status}: ${errorMessage.slice(0, longestReason)}`;
  } catch {
    // no JSON
  }
  return `it answers with status ${status}`;
}
