import { z } from 'zod';

/** JSON Schema 2020-12, the dialect of OpenAPI 3.1, as far as zod writes it. */
export type JsonSchema = {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly format?: string;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly default?: unknown;
  readonly pattern?: string;
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: boolean | JsonSchema;
  readonly items?: JsonSchema;
  readonly anyOf?: readonly JsonSchema[];
  readonly oneOf?: readonly JsonSchema[];
  readonly allOf?: readonly JsonSchema[];
  readonly [keyword: string]: unknown;
};

const local = '#/$defs/';
const shared = '#/components/schemas/';

/**
 * Turns zod schemas into those of one document. Schemas that carry an id (`.meta({ id: 'Job' })`) are
 * collected in `components` and referred to.
 */
export class SchemaWriter {
  readonly components: Record<string, JsonSchema> = {};

  /** What a client may send: transforms show what they take. */
  input(schema: z.ZodType): JsonSchema {
    return this.#write(schema, 'input');
  }

  /** What a client gets. Objects stay open: answers may have more members one day. */
  output(schema: z.ZodType): JsonSchema {
    return this.#write(schema, 'output');
  }

  #write(schema: z.ZodType, io: 'input' | 'output'): JsonSchema {
    const { $defs, ...written } = z.toJSONSchema(schema, {
      io,
      unrepresentable: 'any',
      override: ({ jsonSchema }) => {
        delete jsonSchema.$schema; // the dialect of OpenAPI 3.1 is this one
        if (io === 'output' && jsonSchema.additionalProperties === false)
          delete jsonSchema.additionalProperties;
      },
    }) as JsonSchema & { $defs?: Record<string, JsonSchema> };
    for (const [id, definition] of Object.entries($defs ?? {}))
      this.components[id] = withSharedRefs(definition);
    return withSharedRefs(written);
  }
}

/** References point to the document's components instead of the schema's own definitions. */
function withSharedRefs<T>(value: T): T {
  return JSON.parse(JSON.stringify(value), (key, member: unknown) =>
    key === '$ref' && typeof member === 'string' ? member.replace(local, shared) : member,
  ) as T;
}
