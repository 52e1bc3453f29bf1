import { z } from 'zod';
import { errorCatalog, type ErrorCode } from '#kernel/errors.js';
import type { Answer } from '../answers.js';
import type { Mount } from '../router.js';
import type { OperationFacts } from '../operation.js';
import { htmlType, jsonType } from '../reply.js';
import { documentedPaths, fixedSegments, type DocumentedPath } from './paths.js';
import { SchemaWriter, type JsonSchema } from './schema.js';

/** The parts of an OpenAPI 3.1 document that we write. */
export type OpenApi = {
  readonly openapi: string;
  readonly info: ApiInfo;
  readonly tags: readonly { readonly name: string }[];
  readonly paths: Readonly<Record<string, Readonly<Record<string, ApiOperation>>>>;
  readonly components: {
    readonly schemas: Readonly<Record<string, JsonSchema>>;
    readonly securitySchemes: Readonly<Record<string, object>>;
  };
};
export type ApiInfo = {
  readonly title: string;
  readonly version: string;
  readonly description: string;
};
export type ApiOperation = {
  readonly operationId: string;
  readonly summary: string;
  readonly description: string;
  readonly tags: readonly string[];
  readonly security: readonly object[];
  readonly parameters: readonly ApiParameter[];
  readonly requestBody?: { readonly required: boolean; readonly content: ApiContent };
  readonly responses: Readonly<Record<string, ApiResponse>>;
};
export type ApiParameter = {
  readonly name: string;
  readonly in: 'path' | 'query';
  readonly required: boolean;
  readonly description?: string;
  readonly schema: JsonSchema;
};
export type ApiResponse = {
  readonly description: string;
  readonly headers?: Readonly<Record<string, object>>;
  readonly content?: ApiContent;
};
export type ApiContent = Readonly<Record<string, { readonly schema: JsonSchema }>>;

const ErrorAnswer = z
  .object({
    errorMessage: z.string().describe('What was wrong, and where'),
    status: z.number().int().describe('The HTTP status once more'),
  })
  .meta({ id: 'Error' });

/** Ways to prove an identity; each is enough. */
const securitySchemes = {
  password: { type: 'http', scheme: 'basic', description: 'Name and password of a user' },
  token: {
    type: 'http',
    scheme: 'bearer',
    description: 'A token of this server, of a trusted OpenID provider, or signed by SSH key',
  },
  certificate: { type: 'mutualTLS', description: 'A client certificate, shown to the gateway' },
  session: {
    type: 'apiKey',
    in: 'header',
    name: 'X-UNICORE-SecuritySession',
    description: 'The session that an earlier answer named in this header',
  },
};
const identities = Object.keys(securitySchemes).map((name) => ({ [name]: [] }));

const octets = 'application/octet-stream';
const descriptions: Readonly<Record<number, string>> = {
  200: 'Done',
  201: 'Made',
  204: 'Done; there is nothing to say',
  206: 'A part of it',
  304: 'It is as the client has it',
};

/** What every operation may answer, whatever it does. */
const commonErrors: readonly ErrorCode[] = [
  'BAD_REQUEST',
  'UNAUTHENTICATED',
  'FORBIDDEN',
  'LOGIN_REQUIRED', // of browsers
  'SESSION_UNKNOWN',
  'INTERNAL',
  'DATABASE_UNAVAILABLE',
];

/** Writes the OpenAPI document of what is mounted. */
export function describeApi(mounts: readonly Mount[], info: ApiInfo): OpenApi {
  const writer = new SchemaWriter();
  const error = writer.output(ErrorAnswer);
  const paths: Record<string, Record<string, ApiOperation>> = {};
  const tags = new Set<string>();
  for (const { prefix, operations } of mounts)
    for (const operation of operations) {
      const input = writer.input(operation.input);
      for (const variant of documentedPaths(prefix + operation.path)) {
        const tag = operation.tag ?? fixedSegments(operation.path)[0] ?? prefix.split('/').at(-1);
        if (tag !== undefined) tags.add(tag);
        const written = describeOperation(operation, variant, input, writer, error);
        const methods = (paths[variant.path] ??= {});
        methods[operation.method.toLowerCase()] = { ...written, tags: tag ? [tag] : [] };
      }
    }
  return {
    openapi: '3.1.0',
    info,
    tags: [...tags].map((name) => ({ name })),
    paths,
    components: { schemas: writer.components, securitySchemes },
  };
}

function describeOperation(
  operation: OperationFacts,
  { path, parameters, isRoot }: DocumentedPath,
  input: JsonSchema,
  writer: SchemaWriter,
  error: JsonSchema,
): Omit<ApiOperation, 'tags'> {
  const { access, summary, id = defaultId(operation.method, path) } = operation;
  const body = requestBody(operation, parameters, input);
  return {
    operationId: isRoot ? `${id}Root` : id,
    summary,
    description: `May be used by ${access.description}.`,
    security: access.anonymous ? [{}, ...identities] : identities,
    parameters: describeParameters(operation, parameters, input),
    ...(body && { requestBody: body }),
    responses: {
      ...describeAnswers(operation, input, writer),
      ...describeErrors(operation, parameters, error),
    },
  };
}

/** `getJobsByJobIdDetails` */
function defaultId(method: string, path: string): string {
  const words = path.split('/').filter((segment) => segment !== '' && segment !== 'rest');
  const name = words.map((word) =>
    word.startsWith('{') ? `By${capital(word.slice(1, -1))}` : capital(word),
  );
  return method.toLowerCase() + name.join('');
}

function capital(word: string): string {
  return word
    .split(/[^A-Za-z0-9]+/)
    .map((part) => part.slice(0, 1).toUpperCase() + part.slice(1))
    .join('');
}

/** What is no part of the path is in the query, unless there is a JSON body to hold it; some of it may be in either. */
function describeParameters(
  { body = 'none', query = [] }: OperationFacts,
  pathNames: readonly string[],
  { properties = {}, required = [] }: JsonSchema,
): ApiParameter[] {
  const isPath = (name: string): boolean => pathNames.includes(name);
  return Object.entries(properties).flatMap(([name, { description, ...schema }]) => {
    if (!isPath(name) && (isInBody(name) || isWildcard(name))) return [];
    const parameter = {
      name,
      in: isPath(name) ? ('path' as const) : ('query' as const),
      required: isPath(name) || required.includes(name),
      ...(description !== undefined && { description }),
      schema,
    };
    return [parameter];
  });

  function isInBody(name: string): boolean {
    return body === 'json' && !query.includes(name);
  }

  /** A wildcard of the record's path that this way to write it leaves out. */
  function isWildcard(name: string): boolean {
    return name === 'path' && !pathNames.includes(name);
  }
}

function requestBody(
  { body = 'none', converters = {}, consumes = [octets] }: OperationFacts,
  pathNames: readonly string[],
  { properties = {}, required = [], ...others }: JsonSchema,
): ApiOperation['requestBody'] {
  if (body === 'none') return undefined;
  if (body === 'raw')
    return {
      required: false,
      content: Object.fromEntries(
        consumes.map((type) => [type, { schema: type === jsonType ? { type: 'object' } : {} }]),
      ),
    };
  const isBody = (name: string): boolean => !pathNames.includes(name);
  const names = required.filter(isBody);
  const schema = {
    ...others,
    properties: Object.fromEntries(Object.entries(properties).filter(([name]) => isBody(name))),
    ...(names.length > 0 && { required: names }),
  };
  const converted = Object.keys(converters).map((type) => [type, { schema: { type: 'string' } }]);
  return {
    required: names.length > 0,
    content: { [jsonType]: { schema }, ...(Object.fromEntries(converted) as ApiContent) },
  };
}

function describeAnswers(
  { method, answers }: OperationFacts,
  { properties = {} }: JsonSchema,
  writer: SchemaWriter,
): Record<string, ApiResponse> {
  const isPartial = Object.hasOwn(properties, 'fields');
  return Object.fromEntries(
    Object.entries(answers).map(([status, answer]) => {
      const content = describeContent(answer, method === 'GET', isPartial, writer);
      return [
        status,
        {
          description: answer.description ?? descriptions[Number(status)] ?? 'Done',
          ...(answer.headers && { headers: describeHeaders(answer.headers) }),
          ...(Object.keys(content).length > 0 && { content }),
        },
      ];
    }),
  );
}

function describeHeaders(headers: Readonly<Record<string, string>>): Record<string, object> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, description]) => [
      name,
      { description, schema: { type: 'string' } },
    ]),
  );
}

function describeContent(
  { body, text, types = [] }: Answer,
  isGet: boolean,
  isPartial: boolean,
  writer: SchemaWriter,
): ApiContent {
  const content: Record<string, { schema: JsonSchema }> = {};
  const written = text && writer.output(text);
  const schemaOf = (type: string): JsonSchema =>
    written ?? (type === jsonType ? { type: 'object' } : {});
  if (body) {
    const schema = writer.output(body);
    content[jsonType] = { schema: isPartial ? withoutRequired(schema, writer) : schema };
  }
  for (const type of types) content[type] = { schema: schemaOf(type) };
  if (isGet && jsonType in content) content[htmlType] = { schema: { type: 'string' } };
  return content;
}

/** `fields` lets a client leave out every member. */
function withoutRequired(schema: JsonSchema, { components }: SchemaWriter): JsonSchema {
  const name = schema.$ref?.split('/').at(-1) ?? '';
  return { ...(components[name] ?? schema), required: [] };
}

function describeErrors(
  { method, body = 'none', errors = [] }: OperationFacts,
  pathNames: readonly string[],
  error: JsonSchema,
): Record<string, ApiResponse> {
  const codes: ErrorCode[] = [...commonErrors, ...errors];
  if (pathNames.length > 0) codes.push('NOT_FOUND');
  if (method === 'GET') codes.push('NOT_ACCEPTABLE');
  if (body === 'json') codes.push('TOO_LARGE');
  if (body === 'json' || (method === 'POST' && body !== 'raw'))
    codes.push('UNSUPPORTED_MEDIA_TYPE');
  const byStatus = new Map<number, Set<ErrorCode>>();
  for (const code of codes) {
    const { http } = errorCatalog[code];
    byStatus.set(http, (byStatus.get(http) ?? new Set()).add(code));
  }
  const content = { [jsonType]: { schema: error }, [htmlType]: { schema: { type: 'string' } } };
  return {
    ...Object.fromEntries(
      [...byStatus].map(([status, names]) => [
        status,
        { description: [...names].map(readable).join(', or '), content },
      ]),
    ),
    // the gateway's, before it is known what is asked for
    431: { description: 'address or headers too long', content },
  };
}

/** `JOB_UNKNOWN` to `job unknown` */
function readable(code: ErrorCode): string {
  return code.toLowerCase().replaceAll('_', ' ');
}
