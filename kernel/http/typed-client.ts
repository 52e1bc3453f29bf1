import type { z } from 'zod';
import type { Answers } from './answers.js';
import type { CallOptions, HttpClient, JsonAnswer } from './client.js';
import type { Method } from './operation.js';

/** What the client has to know of an operation, as types: none of the server's code comes along. */
type Described = {
  readonly method: Method;
  readonly path: string;
  readonly input: z.ZodType;
  readonly answers: Answers;
};

type InputOf<Operation extends Described> = z.input<Operation['input']>;
type Bodies<All extends Answers> = {
  [Status in keyof All]: All[Status] extends { readonly body: infer Body extends z.ZodType }
    ? z.output<Body>
    : never;
}[keyof All];
/** `undefined` where no answer has a JSON body. */
type BodyOf<All extends Answers> = [Bodies<All>] extends [never] ? undefined : Bodies<All>;
/** With `fields` any member may be missing. */
type Selected<Body, Input> = Input extends { readonly fields: string } ? Partial<Body> : Body;

type PathOf<Operation extends Described, Verb extends Method> = Extract<
  Operation,
  { readonly method: Verb }
>['path'];
type Find<Operation extends Described, Verb extends Method, Path extends string> = Extract<
  Operation,
  { readonly method: Verb; readonly path: Path }
>;
type Arguments<Expected, Given> =
  Partial<Expected> extends Expected
    ? [input?: Given, options?: CallOptions]
    : [input: Given, options?: CallOptions];

export type TypedAnswer<Body> = JsonAnswer & { readonly body: Body };

export type TypedClient<Operation extends Described> = {
  /**
   * Calls an operation by method and path, as its record spells them; `input` is path, query and body
   * in one. Bodies are what the document promises; they are not checked again.
   * @throws what {@link HttpClient} does: answers from 400 on as `GridError`
   */
  call<
    const Verb extends Operation['method'],
    const Path extends PathOf<Operation, Verb>,
    const Given extends InputOf<Find<Operation, Verb, Path>>,
  >(
    method: Verb,
    path: Path,
    ...rest: Arguments<InputOf<Find<Operation, Verb, Path>>, Given>
  ): Promise<TypedAnswer<Selected<BodyOf<Find<Operation, Verb, Path>['answers']>, Given>>>;

  /** Where a GET or an upload goes, for bodies that are no JSON: `download(address(…))`. */
  address<const Path extends Operation['path']>(
    path: Path,
    input: Partial<Extract<InputOf<Extract<Operation, { readonly path: Path }>>, object>>,
  ): string;
};

/**
 * A client whose calls have the types of a service's operation records.
 * @param prefix where they are mounted, seen from the client: `/VSITE/rest/core`
 * @example
 * const core = createTypedClient<CoreOperation>(http, '/VSITE/rest/core');
 * const { body } = await core.call('GET', '/jobs/:jobId', { jobId });
 */
export function createTypedClient<Operation extends Described>(
  http: HttpClient,
  prefix: string,
): TypedClient<Operation> {
  const call = (
    method: Method,
    template: string,
    input: object = {},
    options?: CallOptions,
  ): Promise<JsonAnswer> => {
    const { path, others } = fillPath(template, input);
    return method === 'GET' || method === 'DELETE'
      ? http.json(method, prefix + path + toQuery(others), undefined, options)
      : http.json(method, prefix + path, others, options);
  };
  const address = (template: string, input: object): string => {
    const { path, others } = fillPath(template, input);
    return prefix + path + toQuery(others);
  };
  return { call, address } as TypedClient<Operation>; // the types are those of the records
}

/** Puts members into `/jobs/:jobId` or `/files{/*path}`; a path keeps its slashes. */
function fillPath(
  template: string,
  input: object,
): { path: string; others: Record<string, unknown> } {
  const others = Object.fromEntries(
    Object.entries(input).filter(([, value]) => value !== undefined),
  ) as Record<string, unknown>;
  const take = (name: string): string => {
    const value = others[name];
    Reflect.deleteProperty(others, name);
    return typeof value === 'string' || typeof value === 'number' ? String(value) : '';
  };
  const path = template
    .replace(/\{\/\*(\w+)\}|\/\*(\w+)/g, (_all, optional?: string, required?: string) => {
      const segments = take(optional ?? required ?? '')
        .replace(/^\/+/, '')
        .split('/')
        .map(encodeURIComponent)
        .join('/');
      return segments === '' ? '' : `/${segments}`;
    })
    .replace(/:(\w+)/g, (_all, name: string) => encodeURIComponent(take(name)));
  return { path, others };
}

function toQuery(members: Readonly<Record<string, unknown>>): string {
  const pairs = Object.entries(members).map(([name, value]): [string, string] => [
    name,
    String(value),
  ]);
  return pairs.length === 0 ? '' : `?${new URLSearchParams(pairs).toString()}`;
}
