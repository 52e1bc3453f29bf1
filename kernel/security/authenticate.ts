import type { X509Certificate } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { errorText, GridError } from '#kernel/errors.js';
import type { HeaderSink } from '#kernel/http/answer-head.js';
import { anonymous as anonymousCaller, type Caller } from '#kernel/http/caller.js';
import type { Log } from '#kernel/log.js';
import {
  createAttributeChain,
  usersSource,
  type AttributeValues,
  type Subject,
} from './attributes.js';
import { auditToLog, type Audit, type SecurityDecision } from './audit.js';
import { basicMethod, wrongCredentials } from './basic.js';
import type { BearerVerifier } from './bearers.js';
import type { Attributes, AuthenticatedCaller } from './caller.js';
import type { Identity } from './identity.js';
import { PasswordChecker } from './password.js';
import type { PasswordBackend } from './password-backend.js';
import {
  checkPreferences,
  parsePreferences,
  type Available,
  type Preferences,
} from './preferences.js';
import type { Session, Sessions } from './sessions.js';
import { peekToken } from './tokens.js';
import { clientCertificate } from './tls.js';
import type { Users } from './users.js';
import { comesFromGateway, consignorMethod, directMethod } from './x509.js';

export class AuthenticationError extends GridError<
  'UNAUTHENTICATED' | 'FORBIDDEN' | 'SESSION_UNKNOWN'
> {}

export type AuthenticatorDeps = {
  users: Users;
  /** What else is known about users; default: what the users file says. */
  attributes?: (subject: Subject) => Promise<AttributeValues | undefined>;
  /** Certificates of the gateways whose word about a client counts. */
  trustedSigners: readonly X509Certificate[];
  /** Our name at the gateways; what they say to another site does not count here. */
  siteName?: string;
  /** Clients may come without a gateway: what a gateway would say counts only from one. */
  direct?: boolean;
  sessions: Sessions;
  log: Log;
  audit?: Audit;
  passwords?: PasswordChecker;
  /** Where else passwords are checked. */
  backends?: readonly PasswordBackend[];
  /** Kinds of tokens that are accepted. */
  bearers?: readonly BearerVerifier[];
};

/**
 * Sets the session's headers on the answer, whatever the answer will be.
 * @throws `SESSION_UNKNOWN` (432), `UNAUTHENTICATED` or `FORBIDDEN` (both 403), `SITE_UNAVAILABLE`
 *   when too many logins wait
 */
export type Authenticate = {
  (request: IncomingMessage, response: HeaderSink): Promise<AuthenticatedCaller>;
  /**
   * The caller as he is by now, for what goes on for longer than a request.
   * @throws `FORBIDDEN` he is banned, or is no more what he came as; `UNAUTHENTICATED` his password is another one
   */
  readonly renew: (caller: Caller) => Promise<Caller>;
};
/** What a caller was made of, besides what sources say of him. */
type Origin = { readonly identity: Identity; readonly chosen: Preferences; readonly peer: string };
type Made = Origin & { readonly values: AttributeValues; readonly caller: AuthenticatedCaller };

/** Recognises one kind of credentials; throws if they are that kind and wrong. */
export type Method = (
  request: IncomingMessage,
) => Identity | undefined | Promise<Identity | undefined>;

const anonymous: Identity = { dn: anonymousCaller.dn };
const nothing: AttributeValues = {};
const sessionHeader = 'x-unicore-securitysession';
const preferencesHeader = 'x-unicore-user-preferences';

/** Finds out who asks: session, else credentials, else nobody in particular (UNICORE REST, 2.1). */
export function createAuthenticator(deps: AuthenticatorDeps): Authenticate {
  const { users, sessions, passwords = new PasswordChecker(), backends = [] } = deps;
  const log = deps.log.child({ part: 'security' });
  const audit = deps.audit ?? auditToLog(deps.log);
  const attributesOf = createLookUp(deps, log);
  // The order counts: the first one that recognises its credentials decides
  const methods: readonly Method[] = [
    basicMethod({ users, passwords, backends, log }),
    bearer(deps.bearers ?? []),
    consignorMethod(deps),
    ...(deps.direct ? [directMethod(deps)] : []),
  ];

  const origins = new WeakMap<Caller, Origin>();
  /** Whom an identity came as last: a session's requests are mostly made by the same caller. */
  const last = new WeakMap<Identity, Made>();

  async function describe(origin: Origin): Promise<AuthenticatedCaller> {
    const { identity, chosen, peer } = origin;
    const values = identity === anonymous ? nothing : await attributesOf(identity, chosen);
    const made = last.get(identity);
    if (made?.values === values && made.chosen === chosen && made.peer === peer) return made.caller;
    if (values.roles?.includes('banned'))
      throw new AuthenticationError('FORBIDDEN', 'this user is banned', { dn: identity.dn });
    const available = toAvailable(values);
    checkPreferences(chosen, available);
    const caller = toCaller(identity, values, available, chosen, peer);
    origins.set(caller, origin);
    last.set(identity, { ...origin, values, caller });
    return caller;
  }

  async function authenticate(
    request: IncomingMessage,
    response: HeaderSink,
  ): Promise<AuthenticatedCaller> {
    const peer = peerOf(request, deps);
    const known = await findSession(request, deps);
    const identity = known?.identity ?? (await identify(request, methods));
    const chosen = choose(identity, known, request);
    const caller = await describe({ identity, chosen, peer });
    const session = known ?? sessions.create(identity, peer, chosen);
    session.preferences = chosen;
    response.setHeader('X-UNICORE-SecuritySession', session.id);
    response.setHeader('X-UNICORE-SecuritySession-Lifetime', sessions.remainingMs(session));
    if (!known) {
      const why = `by ${identity.method ?? 'no credentials'}`;
      audit({ what: 'login', allowed: true, why, caller }, requestId(request));
    }
    return caller;
  }

  async function renew(caller: Caller): Promise<Caller> {
    const origin = origins.get(caller);
    if (!origin) return caller; // of another making
    if (!(await hasItsPassword(origin.identity, users)))
      throw new AuthenticationError('UNAUTHENTICATED', 'the password is another one by now');
    return await describe(origin);
  }

  return Object.assign(withAudit(authenticate, deps, audit), { renew });
}

/** Refusals are written down. */
function withAudit(
  authenticate: (request: IncomingMessage, response: HeaderSink) => Promise<AuthenticatedCaller>,
  deps: AuthenticatorDeps,
  audit: Audit,
): typeof authenticate {
  return async (request, response) => {
    try {
      return await authenticate(request, response);
    } catch (error) {
      audit({ ...refusalOf(error), peer: peerOf(request, deps) }, requestId(request));
      throw error;
    }
  };
}

/** What is known about whoever proved an identity: what sources say, or else whoever vouches for him. */
function createLookUp(
  { users, attributes: given }: AuthenticatorDeps,
  log: Log,
): (identity: Identity, chosen: Preferences) => Promise<AttributeValues> {
  const attributes = given ?? createAttributeChain([usersSource(users)], 'FIRST_APPLICABLE', log);
  return async ({ dn, claims }, { vo }) => {
    const found = await attributes({ dn, claims, vo });
    if (found) return found;
    if (claims?.role === undefined) return {};
    const { role, login, vos = [] } = claims;
    return { roles: [role], logins: login === undefined ? [] : [login], vos };
  };
}

function refusalOf(error: unknown): SecurityDecision {
  const known: GridError | undefined = error instanceof GridError ? error : undefined;
  const { user, dn = user } = known?.details ?? {};
  return {
    what: 'login',
    allowed: false,
    ...(known && { code: known.code }),
    why: errorText(error),
    ...(typeof dn === 'string' && { subject: dn }),
  };
}

/** Who issued a token has chosen for its bearer; in a session a later choice goes over an earlier one. */
function choose(
  { preferences, claims, method }: Identity,
  known: Session | undefined,
  request: IncomingMessage,
): Preferences {
  if (known && request.headers[preferencesHeader] === undefined) return known.preferences;
  const { login } = claims ?? {};
  const issued = method === 'ETD' && login !== undefined ? { uid: login } : {};
  if (preferences) return { ...issued, ...preferences };
  return {
    ...issued,
    ...known?.preferences,
    ...requestedPreferences(request),
  };
}

/** @throws {@link AuthenticationError} `SESSION_UNKNOWN` for one that is over, or whose proof counts no more */
async function findSession(
  request: IncomingMessage,
  { users, sessions }: AuthenticatorDeps,
): Promise<Session | undefined> {
  const id = request.headers[sessionHeader];
  if (id === undefined) return undefined;
  const session = typeof id === 'string' ? sessions.find(id) : undefined;
  if (session && (await isStillGood(session.identity, users, request))) return session;
  if (session) sessions.end(session);
  throw new AuthenticationError('SESSION_UNKNOWN', 'unknown or expired security session');
}

async function isStillGood(
  identity: Identity,
  users: Users,
  { socket }: IncomingMessage,
): Promise<boolean> {
  const { certificate } = identity;
  if (certificate !== undefined) {
    const shown = clientCertificate(socket);
    return shown?.refused === undefined && shown?.certificate.fingerprint256 === certificate;
  }
  return await hasItsPassword(identity, users);
}

async function hasItsPassword({ dn, storedPassword }: Identity, users: Users): Promise<boolean> {
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

function bearer(verifiers: readonly BearerVerifier[]): Method {
  return async ({ headers: { authorization } }) => {
    const token = /^bearer +(\S+) *$/i.exec(authorization ?? '')?.[1];
    if (token === undefined) return undefined;
    const claimed = peekToken(token);
    let away: GridError | undefined;
    for (const verify of verifiers)
      try {
        const identity = await verify(token, claimed);
        if (identity) return identity;
      } catch (error) {
        if (!(error instanceof GridError && error.code === 'SITE_UNAVAILABLE')) throw error;
        away ??= error; // the token may be another one's
      }
    throw away ?? wrongCredentials();
  };
}

function requestedPreferences({ headers }: IncomingMessage): Preferences {
  const value = headers[preferencesHeader];
  return value === undefined ? {} : parsePreferences(String(value));
}

function toAvailable(values: AttributeValues): Available {
  const { roles = ['anonymous'], logins = [], groups = [], queues, vos = [] } = values;
  return { roles, logins, groups, vos, ...(queues && { queues }) };
}

function toCaller(
  identity: Identity,
  values: AttributeValues,
  available: Available,
  chosen: Preferences,
  peer: string,
): AuthenticatedCaller {
  const { dn, method, renewable } = identity;
  const login = chosen.uid ?? available.logins[0];
  const group = chosen.group ?? available.groups[0];
  const queue = chosen.queue ?? available.queues?.[0];
  const attributes: Attributes = {
    ...available,
    ...(group !== undefined && { group }),
    ...(queue !== undefined && { queue }),
    supplementaryGroups: chosen.supplementaryGroups ?? values.supplementaryGroups ?? [],
  };
  return {
    // As its source spells it, however the certificate does: owners are compared as strings
    dn: values.dn ?? dn,
    role: chosen.role ?? available.roles[0] ?? 'anonymous',
    ...(login !== undefined && { login }),
    ...(method !== undefined && { method }),
    ...(renewable !== undefined && { renewable }),
    preferences: chosen,
    attributes,
    peer,
  };
}

/** The gateway says so; it removes what clients claim. Without a gateway: the socket. */
function peerOf(request: IncomingMessage, { direct, trustedSigners }: AuthenticatorDeps): string {
  const { headers, socket } = request;
  const claimed = headers['x-unicore-consignor-ip'];
  const believed = direct !== true || comesFromGateway(request, trustedSigners);
  return typeof claimed === 'string' && believed ? claimed : (socket.remoteAddress ?? 'local');
}

/** The one that the request is logged by. */
function requestId(request: IncomingMessage): string | undefined {
  const { id = request.headers['x-request-id'] } = request as { id?: unknown };
  return typeof id === 'string' ? id : undefined;
}
