import type { X509Certificate } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { errorText, GridError } from '#kernel/errors.js';
import { anonymous as anonymousCaller } from '#kernel/http/caller.js';
import type { Log } from '#kernel/log.js';
import type { BearerVerifier } from './bearers.js';
import type { Attributes, AuthenticatedCaller } from './caller.js';
import { ConsignorError, createConsignorVerifier } from './consignor.js';
import { createConsignorTokenVerifier, type Consigned } from './consignor-token.js';
import { formatDn } from './dn.js';
import type { Identity } from './identity.js';
import { PasswordChecker } from './password.js';
import {
  checkPreferences,
  parsePreferences,
  type Available,
  type Preferences,
} from './preferences.js';
import type { Session, Sessions } from './sessions.js';
import { peekToken } from './tokens.js';
import type { User, Users } from './users.js';

export class AuthenticationError extends GridError<
  'UNAUTHENTICATED' | 'FORBIDDEN' | 'SESSION_UNKNOWN'
> {}

export type AuthenticatorDeps = {
  users: Users;
  /** Certificates of the gateways whose word about a client counts. */
  trustedSigners: readonly X509Certificate[];
  /** Our name at the gateways; what they say to another site does not count here. */
  siteName?: string;
  sessions: Sessions;
  log: Log;
  passwords?: PasswordChecker;
  /** Kinds of tokens that are accepted. */
  bearers?: readonly BearerVerifier[];
};

/**
 * Sets the session's headers on the answer, whatever the answer will be.
 * @throws `SESSION_UNKNOWN` (432), `UNAUTHENTICATED` or `FORBIDDEN` (both 403), `SITE_UNAVAILABLE`
 *   when too many logins wait
 */
export type Authenticate = (
  request: IncomingMessage,
  response: Pick<ServerResponse, 'setHeader'>,
) => Promise<AuthenticatedCaller>;

/** Recognises one kind of credentials; throws if they are that kind and wrong. */
type Method = (request: IncomingMessage) => Promise<Identity | undefined>;

const anonymous: Identity = { dn: anonymousCaller.dn };
const sessionHeader = 'x-unicore-securitysession';

/** Finds out who asks: session, else credentials, else nobody in particular (UNICORE REST, 2.1). */
export function createAuthenticator(deps: AuthenticatorDeps): Authenticate {
  const { users, sessions } = deps;
  const log = deps.log.child({ part: 'security' });
  // The order counts: the first one that recognises its credentials decides
  const methods: readonly Method[] = [
    basic(users, deps.passwords ?? new PasswordChecker()),
    bearer(deps.bearers ?? []),
    consignor(deps),
  ];

  const authenticate: Authenticate = async (request, response) => {
    const peer = peerOf(request);
    const known = await findSession(request, deps);
    const identity = known?.identity ?? (await identify(request, methods));
    const user = identity === anonymous ? undefined : await users.findByDn(identity.dn);
    if (user?.role === 'banned') throw new AuthenticationError('FORBIDDEN', 'this user is banned');
    const available = availableTo(user, identity);
    const chosen = identity.preferences ?? {
      ...known?.preferences,
      ...requestedPreferences(request),
    };
    checkPreferences(chosen, available);
    const session = known ?? sessions.create(identity, peer, chosen);
    session.preferences = chosen;
    response.setHeader('X-UNICORE-SecuritySession', session.id);
    response.setHeader('X-UNICORE-SecuritySession-Lifetime', sessions.remainingMs(session));
    const caller = toCaller(identity, user, available, chosen, peer);
    const facts = { reqId: requestId(request), dn: caller.dn, role: caller.role, peer };
    if (known) log.debug(facts, 'session accepted');
    else log.info({ ...facts, method: identity.method ?? 'none' }, 'caller accepted');
    return caller;
  };

  return async (request, response) => {
    try {
      return await authenticate(request, response);
    } catch (error) {
      const known: GridError | undefined = error instanceof GridError ? error : undefined;
      const reason = errorText(error);
      log.warn(
        {
          code: known?.code,
          ...known?.details,
          reqId: requestId(request),
          peer: peerOf(request),
          reason,
        },
        'caller refused',
      );
      throw error;
    }
  };
}

/** @throws {@link AuthenticationError} `SESSION_UNKNOWN` for one that is over, or whose password has changed */
async function findSession(
  { headers }: IncomingMessage,
  { users, sessions }: AuthenticatorDeps,
): Promise<Session | undefined> {
  const id = headers[sessionHeader];
  if (id === undefined) return undefined;
  const session = typeof id === 'string' ? sessions.find(id) : undefined;
  if (session && (await isStillGood(session.identity, users))) return session;
  if (session) sessions.end(session);
  throw new AuthenticationError('SESSION_UNKNOWN', 'unknown or expired security session');
}

async function isStillGood({ dn, storedPassword }: Identity, users: Users): Promise<boolean> {
  if (storedPassword === undefined) return true;
  return (await users.findByDn(dn))?.password === storedPassword;
}

async function identify(request: IncomingMessage, methods: readonly Method[]): Promise<Identity> {
  for (const method of methods) {
    const identity = await method(request);
    if (identity) return identity;
  }
  if (request.headers.authorization !== undefined) throw wrongCredentials();
  return anonymous;
}

function basic(users: Users, passwords: PasswordChecker): Method {
  return async ({ headers: { authorization } }) => {
    const encoded = /^basic +([A-Za-z0-9+/=_-]+) *$/i.exec(authorization ?? '')?.[1];
    if (encoded === undefined) return undefined;
    const text = Buffer.from(encoded, 'base64').toString('utf8');
    const colon = text.indexOf(':');
    if (colon < 0) throw wrongCredentials();
    const user = await users.findByName(text.slice(0, colon));
    // An unknown user costs what a wrong password costs
    const good = await passwords.check(text.slice(colon + 1), user?.password);
    if (!good || user?.password === undefined) throw wrongCredentials({ user: user?.name });
    return { dn: user.dn, method: 'PASSWORD_FILE', storedPassword: user.password };
  };
}

function bearer(verifiers: readonly BearerVerifier[]): Method {
  return async ({ headers: { authorization } }) => {
    const token = /^bearer +(\S+) *$/i.exec(authorization ?? '')?.[1];
    if (token === undefined) return undefined;
    const claimed = peekToken(token);
    for (const verify of verifiers) {
      const identity = await verify(token, claimed);
      if (identity) return identity;
    }
    throw wrongCredentials();
  };
}

/** The gateway's word: for this request by its token, or else for the name alone. */
function consignor({ trustedSigners, siteName }: AuthenticatorDeps): Method {
  const verify = createConsignorVerifier(trustedSigners);
  const verifyToken = createConsignorTokenVerifier(trustedSigners);
  return async (request) => {
    const { headers } = request;
    const token = headers['x-unicore-consignor-token'];
    if (token !== undefined) {
      const asked = consigned(request);
      if (
        siteName !== undefined &&
        !asked.gateway.toLowerCase().endsWith(`/${siteName.toLowerCase()}`)
      )
        throw new ConsignorError('UNAUTHENTICATED', 'consignor token refused: for another site');
      const statement = String(headers['x-unicore-consignor-key']);
      return { dn: await verifyToken(String(token), statement, asked), method: 'X509' };
    }
    const value = headers['x-unicore-consignor'];
    // Repeated headers arrive joined, and then no signature fits
    return value === undefined
      ? undefined
      : { dn: formatDn(verify(String(value))), method: 'X509' };
  };
}

function consigned(request: IncomingMessage): Consigned {
  const { headers, method = '', url = '' } = request;
  // Routers cut `url` short
  const { originalUrl = url } = request as { originalUrl?: string };
  return {
    method,
    target: originalUrl,
    peer: String(headers['x-unicore-consignor-ip']),
    gateway: String(headers['x-unicore-gateway']),
  };
}

/** The same words whatever was wrong. */
function wrongCredentials(details: { user?: string | undefined } = {}): AuthenticationError {
  return new AuthenticationError('UNAUTHENTICATED', 'credentials not accepted', details);
}

function requestedPreferences({ headers }: IncomingMessage): Preferences {
  const value = headers['x-unicore-user-preferences'];
  return value === undefined ? {} : parsePreferences(String(value));
}

function availableTo(user: User | undefined, { claims }: Identity): Available {
  if (!user && claims) {
    const { role, login } = claims;
    return { logins: login === undefined ? [] : [login], groups: [], roles: [role] };
  }
  if (!user) return { logins: [], groups: [], roles: ['anonymous'] };
  const { name, login = name, groups, role } = user;
  return { logins: [login], groups, roles: role === 'admin' ? ['admin', 'user'] : [role] };
}

function toCaller(
  identity: Identity,
  user: User | undefined,
  available: Available,
  chosen: Preferences,
  peer: string,
): AuthenticatedCaller {
  const { dn, method, renewable, claims } = identity;
  const login = chosen.uid ?? available.logins[0];
  const group = chosen.group ?? available.groups[0];
  const attributes: Attributes = {
    ...available,
    ...(group !== undefined && { group }),
    supplementaryGroups: chosen.supplementaryGroups ?? [],
    vos: [],
  };
  return {
    // As the file spells it, however the certificate does: owners are compared as strings
    dn: user?.dn ?? dn,
    role: user ? selectRole(user, chosen) : (claims?.role ?? 'anonymous'),
    ...(login !== undefined && { login }),
    ...(method !== undefined && { method }),
    ...(renewable !== undefined && { renewable }),
    attributes,
    peer,
  };
}

function selectRole(user: User, { role }: Preferences): AuthenticatedCaller['role'] {
  return user.role === 'admin' && role !== 'user' ? 'admin' : 'user';
}

/** The gateway says so; it removes what clients claim. Without a gateway: the socket. */
function peerOf({ headers, socket }: IncomingMessage): string {
  const claimed = headers['x-unicore-consignor-ip'];
  return typeof claimed === 'string' ? claimed : (socket.remoteAddress ?? 'local');
}

function requestId({ headers }: IncomingMessage): string | undefined {
  const id = headers['x-request-id'];
  return typeof id === 'string' ? id : undefined;
}
