import type { IncomingHttpHeaders } from 'node:http';
import type { Readable } from 'node:stream';
import type { z } from 'zod';
import { describeIssues } from '#kernel/config.js';
import { GridError, type ErrorCode } from '#kernel/errors.js';
import type { Log } from '#kernel/log.js';
import { defaultAnswers, type Answers } from './answers.js';
import type { Audit } from '#kernel/security/audit.js';
import { decide, type Policy, type PolicyView } from '#kernel/security/policy.js';
import type { Caller } from './caller.js';
import type { Reply } from './reply.js';

export class RequestError extends GridError<
  | 'BAD_REQUEST'
  | 'FORBIDDEN'
  | 'NOT_FOUND'
  | 'METHOD_NOT_ALLOWED'
  | 'NOT_ACCEPTABLE'
  | 'TOO_LARGE'
  | 'UNSUPPORTED_MEDIA_TYPE'
  | 'RANGE_NOT_SATISFIABLE'
> {}

export type Method = 'GET' | 'POST' | 'PUT' | 'DELETE';

/** `json`: parsed leniently, it is the input; `raw`: streamed to `run`; `none`: not read. */
export type BodyKind = 'json' | 'raw' | 'none';

/** By media type: text of a body to what its JSON would be. */
export type Converters = Readonly<Record<string, (text: string) => object>>;

/** What an operation may know about the request besides its input. */
export type Context = {
  readonly caller: Caller;
  /** The caller as he is by now, for what goes on for longer than a request. @throws he may not come in any more */
  readonly renew: () => Promise<Caller>;
  /** The site's address as the client sees it, `https://host:8080/VSITE`; no slash at the end. */
  readonly baseUrl: string;
  /** Address of the resource that was asked for, without the query. */
  readonly url: string;
  readonly log: Log;
  /** Where decisions are written down. */
  readonly audit?: Audit | undefined;
  /** Aborted when the client goes away. */
  readonly signal: AbortSignal;
  readonly headers: IncomingHttpHeaders;
  /** The protocol that the client wants to go over to, where this server can (`listen`). */
  readonly upgrade?: string | undefined;
  /** The one of `types` that the client likes best; the first if it does not care. */
  readonly accepts: (types: readonly string[]) => string | undefined;
};

/** Touching `body` lets the client begin to send: refuse what its headers tell before. */
export type RawContext = Context & { readonly body: Readable };

export { adminOnly, authenticated, everybody, type Policy } from '#kernel/security/policy.js';

/**
 * The record of one REST operation: routing, validation, authorisation, the API document and the typed
 * client are built from it.
 */
export type OperationRecord<
  Deps,
  Input extends z.ZodType,
  Body extends BodyKind,
  Verb extends Method = Method,
  Path extends string = string,
  Answering extends Answers = Answers,
> = {
  readonly method: Verb;
  /** Below the prefix it is mounted at: `/images/:imageId`, `/files{/*path}` (joined by slashes). */
  readonly path: Path;
  /** One sentence for the API document. */
  readonly summary: string;
  /** Its name in the API document, such as `getJob`; default: made of method and path. */
  readonly id?: string;
  /** The group it is shown in; default: the first segment of its path. */
  readonly tag?: string;
  /** Path and JSON body, or else query, in one object; numbers of path and query are text, so coerce them. */
  readonly input: Input;
  readonly policy: Policy<Deps, z.output<Input>>;
  /** Default `none`. */
  readonly body?: Body;
  /** With a JSON body: members of the input that may be in the query instead. Without, it holds all of them. */
  readonly query?: readonly string[];
  /** Other media types that a JSON body may come in, and how it is read then. */
  readonly converters?: Converters;
  /** Largest JSON body in bytes; default 1 MiB. */
  readonly bodyLimit?: number;
  /** Media types that a raw body is meant to have; default: any bytes. */
  readonly consumes?: readonly string[];
  /** What GET can answer with, preferred first; default JSON. A client that accepts none gets 406. */
  readonly produces?: readonly string[];
  /** How it answers when all goes well; default: what is usual for the method. */
  readonly answers?: Answering;
  /** What it refuses for besides what every operation does (see `commonErrors`). */
  readonly errors?: readonly ErrorCode[];
  readonly run: (
    deps: Deps,
    input: z.output<Input>,
    context: Body extends 'raw' ? RawContext : Context,
  ) => Reply | Promise<Reply>;
};

/** What is known about an operation without running it. */
export type OperationFacts = Omit<
  OperationRecord<never, z.ZodType, BodyKind>,
  'policy' | 'run' | 'answers'
> & {
  readonly answers: Answers;
  /** The record says how it answers; else `answers` are what is usual. */
  readonly saysAnswers: boolean;
  readonly access: PolicyView;
};

/** An operation ready to be mounted: its input's type is between its record and itself. */
export type Operation<Deps> = OperationFacts & {
  /** Validates, authorises and runs. */
  readonly handle: (deps: Deps, raw: object, context: RawContext) => Promise<Reply>;
};

/** One whose record's types are still known, for the typed client. */
export type TypedOperation<
  Deps,
  Input extends z.ZodType,
  Verb extends Method,
  Path extends string,
  Answering extends Answers,
> = Omit<Operation<Deps>, 'method' | 'path' | 'input' | 'answers'> & {
  readonly method: Verb;
  readonly path: Path;
  readonly input: Input;
  readonly answers: Answering;
};

/**
 * @example
 * const operation = operations<ImageDeps>();
 * export const getImage = operation({ method: 'GET', path: '/images/:imageId', …,
 *   run: ({ images }, { imageId }) => json(images.get(imageId)) });
 */
export function operations<Deps>() {
  return <
    Input extends z.ZodType,
    const Verb extends Method,
    const Path extends string,
    Body extends BodyKind = 'none',
    const Answering extends Answers = Answers,
  >(
    record: OperationRecord<Deps, Input, Body, Verb, Path, Answering>,
  ): TypedOperation<Deps, Input, Verb, Path, Answering> => {
    const { policy, run, ...described } = record;
    const { method, path, produces, answers } = record;
    const label = `${method} ${path}`;
    return {
      ...described,
      // without `answers` the type is the general one
      answers: answers ?? (defaultAnswers(method, path, produces) as Answering),
      saysAnswers: answers !== undefined,
      access: policy,
      async handle(deps, raw, context) {
        const input = record.input.safeParse(raw);
        if (!input.success)
          throw new RequestError(
            'BAD_REQUEST',
            describeIssues(input.error),
            {},
            { cause: input.error },
          );
        const { caller, audit, url } = context;
        const decision = await decide(policy, caller, deps, input.data);
        audit?.({
          what: 'access',
          allowed: decision.allowed,
          why: decision.why,
          caller,
          operation: label,
          // an address that is as good as a password is not written down
          resource: policy.rule === 'capability' ? withoutKey(url) : url,
        });
        if (!decision.allowed) throw refusal(policy, caller);
        return run(deps, input.data, context);
      },
    };
  };
}

function refusal({ asksForLogin }: PolicyView, { role }: Caller): GridError {
  return asksForLogin && role === 'anonymous'
    ? new GridError('LOGIN_REQUIRED', 'access denied: log in')
    : new RequestError('FORBIDDEN', 'access denied');
}

/** `…/rest/files/KEY` and `…/rest/access/SITE/ID/path`, without what makes them a password. */
function withoutKey(url: string): string {
  return url.replace(/(\/rest\/[^/]+\/).*/, '$1…');
}
