import type { IncomingMessage, ServerResponse } from 'node:http';
import { asGridError } from '#kernel/errors.js';
import { isFormType } from '#kernel/http/foreign-pages.js';
import type { Log } from '#kernel/log.js';
import type { BackendOptions } from '../backend.js';
import { tokensPath } from '../config.js';
import { readForm } from '../form.js';
import { GatewayError, sendBody } from '../reply.js';
import type { Site } from '../site.js';
import type { Target } from '../target.js';
import type { Login, LoginCookie } from './login-cookie.js';
import {
  departureHeaders,
  formHeaders,
  formPath,
  renderDeparture,
  renderForm,
  renderProblem,
  renderTokens,
  resultHeaders,
} from './pages.js';
import { callbackPath, type Access, type Provider } from './provider.js';
import { askServer, askSite, type Asking, type SiteToken } from './site-token.js';
import { readWish } from './wish.js';

/** Where tokens come from, as the configuration has it now. */
export type ApiTokenSettings = {
  readonly provider: Provider;
  readonly cookie: LoginCookie;
  /** Names as configured; paths below the site, or addresses of other servers. */
  readonly tokenUrls: ReadonlyMap<string, string>;
  readonly lifetimeSeconds: number;
  /** How other servers are reached. */
  readonly server: Omit<BackendOptions, 'address'>;
};

export type GeneratorDeps = {
  /** Takes a place at a site, to be given back. @throws {@link GatewayError} there is none */
  readonly enter: (name: string) => Site;
  readonly log: Log;
};

export type GeneratorRequest = {
  readonly reqId: string;
  readonly peer: string;
  /** `https://host` as the client calls us. */
  readonly origin: string;
  /** A page of another origin sends it. */
  readonly isForeign: boolean;
  readonly own: readonly string[];
};

/** Each holds a request to the provider and one to each site. */
const mostAtATime = 32;

/** Whether a request is for the generator; what a site of this name has is the site's (unicore-rest 5.1). */
export function isForGenerator(
  { site, path }: Target,
  method: string | undefined,
  isSite: () => boolean,
): boolean {
  if (method === 'POST') return site === tokensPath && pathOf(path) === '/';
  if (method !== 'GET' && method !== 'HEAD') return false;
  return site === tokensPath || (`/${site}${pathOf(path)}`.includes(formPath) && !isSite());
}

/**
 * Lets users of an OpenID Connect provider have tokens of the sites. Nothing is kept of them: what is under way is in
 * the user's browser, the provider's word is shown to the sites and revoked (ADR 45).
 */
export class TokenGenerator {
  readonly #deps: GeneratorDeps;
  #underWay = 0;

  constructor(deps: GeneratorDeps) {
    this.#deps = deps;
  }

  async answer(
    request: IncomingMessage,
    response: ServerResponse,
    target: Target,
    asked: GeneratorRequest,
    settings: ApiTokenSettings,
  ): Promise<void> {
    try {
      if (request.method === 'POST') await this.#begin(request, response, asked, settings);
      else if (`/${target.site}${pathOf(target.path)}` === callbackPath)
        await this.#finish(request, response, target, asked, settings);
      else {
        const { provider, tokenUrls, lifetimeSeconds } = settings;
        const { issuer } = provider;
        const form = renderForm({ issuer, lifetimeSeconds, sites: [...tokenUrls.keys()] });
        sendBody(response, 200, [...formHeaders, ...asked.own], form);
      }
    } catch (error) {
      this.#refuse(request, response, asked, error);
    }
  }

  /** @throws what nobody expected */
  #refuse(
    request: IncomingMessage,
    response: ServerResponse,
    { reqId, peer, own }: GeneratorRequest,
    error: unknown,
    more: readonly string[] = [],
  ): void {
    const known = asGridError(error);
    if (!known || response.headersSent) throw error;
    this.#deps.log.warn({ reqId, peer, reason: known.message }, 'no API tokens');
    // what is left of a form has not been read
    if (!request.complete) response.shouldKeepAlive = false;
    const page = renderProblem(known.message);
    sendBody(response, known.row.http, [...more, ...resultHeaders, ...own], page);
  }

  async #begin(
    request: IncomingMessage,
    response: ServerResponse,
    { origin, isForeign, own }: GeneratorRequest,
    { provider, cookie, tokenUrls }: ApiTokenSettings,
  ): Promise<void> {
    refuseScripts(request);
    if (isForeign) throw new GatewayError('FORBIDDEN', 'other pages may not ask for tokens');
    if (!isFormType(request.headers)) throw new GatewayError('BAD_REQUEST', 'this is no form');
    const wish = readWish(await readForm(request), [...tokenUrls.keys()]);
    const { url, ...login } = await provider.begin(origin);
    const sealed = await cookie.seal({ ...login, wish });
    const headers = ['Set-Cookie', sealed, ...departureHeaders, ...own];
    sendBody(response, 200, headers, renderDeparture(provider.issuer, url));
  }

  async #finish(
    request: IncomingMessage,
    response: ServerResponse,
    { path }: Target,
    asked: GeneratorRequest,
    settings: ApiTokenSettings,
  ): Promise<void> {
    if (request.method !== 'GET')
      throw new GatewayError('METHOD_NOT_ALLOWED', 'a login is finished by GET');
    refuseScripts(request);
    const query = path.slice(pathOf(path).length + 1);
    const login = await findLogin(request, query, asked, settings);
    const ended = ['Set-Cookie', settings.cookie.ended];
    if (this.#underWay >= mostAtATime)
      throw new GatewayError('LIMIT_REACHED', 'too many logins at a time, try again');
    this.#underWay++;
    const gone = new AbortController();
    response.once('close', () => gone.abort(new Error('the client left')));
    try {
      const access = await settings.provider.finish(query, login);
      const tokens = await this.#askSites(
        access,
        login,
        { ...asked, signal: gone.signal },
        settings,
      );
      const page = renderTokens(asked.origin, tokens);
      sendBody(response, 200, [...ended, ...resultHeaders, ...asked.own], page);
    } catch (error) {
      this.#refuse(request, response, asked, error, ended);
    } finally {
      this.#underWay--;
    }
  }

  async #askSites(
    access: Access,
    { wish }: Login,
    asked: GeneratorRequest & { readonly signal: AbortSignal },
    { tokenUrls, server }: ApiTokenSettings,
  ): Promise<SiteToken[]> {
    const { log } = this.#deps;
    const asking: Asking = { ...asked, log, wish, accessToken: access.token };
    try {
      return await Promise.all(
        wish.sites.map(async (name) => {
          const url = tokenUrls.get(name);
          const result =
            url === undefined
              ? { site: name, reason: 'it gives no tokens here any more' }
              : url.startsWith('/')
                ? await this.#askBehind(name, url, asking)
                : await askServer(name, { ...server, address: url }, asking);
          const { reqId, peer } = asked;
          const reason = 'reason' in result ? result.reason : undefined;
          log.info({ reqId, peer, vsite: name, reason }, reason ? 'no API token' : 'API token');
          return result;
        }),
      );
    } finally {
      await access.revoke(log);
    }
  }

  async #askBehind(name: string, path: string, asking: Asking): Promise<SiteToken> {
    let site: Site | undefined;
    try {
      site = this.#deps.enter(name);
      return await askSite(site, path, asking);
    } catch (error) {
      const known = asGridError(error);
      if (!known) throw error;
      return { site: name, reason: known.message };
    } finally {
      site?.leave();
    }
  }
}

/**
 * Pages of sites are of our origin, and what their scripts fetch they can read, whatever policy comes with it. Browsers
 * say what a request is for; programs say nothing.
 * @throws {@link GatewayError} `FORBIDDEN`
 */
function refuseScripts({ headers }: IncomingMessage): void {
  if ((headers['sec-fetch-mode'] ?? 'navigate') !== 'navigate')
    throw new GatewayError('FORBIDDEN', 'scripts get no tokens');
}

/** @throws {@link GatewayError} `BAD_REQUEST`: it is none that this browser has begun here, or it is over */
async function findLogin(
  { headers }: IncomingMessage,
  query: string,
  { origin }: GeneratorRequest,
  { cookie, provider }: ApiTokenSettings,
): Promise<Login> {
  const login = await cookie.open(headers.cookie);
  if (!login) {
    const reason = 'no login is under way in this browser, or it took too long';
    throw new GatewayError('BAD_REQUEST', reason);
  }
  const said = new URLSearchParams(query);
  const isAnswered = said.getAll('state').join() === login.state;
  if (!isAnswered || login.origin !== origin || login.issuer !== provider.issuer)
    throw new GatewayError('BAD_REQUEST', 'this is the answer to another login than the last one');
  if (!said.has('code') && !said.has('error'))
    throw new GatewayError('BAD_REQUEST', 'code: missing');
  return login;
}

function pathOf(path: string): string {
  return path.split('?', 1)[0] ?? '';
}
