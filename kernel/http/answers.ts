import type { z } from 'zod';
import type { Method } from './operation.js';
import { jsonType } from './reply.js';

/** One way in which an operation answers when all goes well. */
export type Answer = {
  /** Schema of a JSON body; absent: the body is what `types` say, or there is none. */
  readonly body?: z.ZodType;
  /** Media types of a body that is not (only) JSON. */
  readonly types?: readonly string[];
  /** Schema of `types` where a sentence about their text helps; default: anything. */
  readonly text?: z.ZodType;
  /** Headers that belong to the answer, and what each says. */
  readonly headers?: Readonly<Record<string, string>>;
  /** One sentence; default: by status. */
  readonly description?: string;
};

/** By status. Errors are not listed here: see `errors` of the record. */
export type Answers = Readonly<Record<number, Answer>>;

/** 200 with JSON. Where the input has `fields`, each member may be left out. */
export const answersJson = <Body extends z.ZodType>(body: Body) => ({ 200: { body } }) as const;
/** 201 and where the new resource is; no body. */
export const answersCreated = {
  201: { headers: { location: 'Address of what was made' } },
} as const satisfies Answers;
/** 204. */
export const answersNothing = { 204: {} } as const satisfies Answers;
/** 200 with a body that is not JSON. */
export const answersWith = (...types: readonly string[]) => ({ 200: { types } }) as const;

/** What is true of an operation that says nothing about its answers. */
export function defaultAnswers(
  method: Method,
  path: string,
  produces: readonly string[] = [jsonType],
): Answers {
  if (method === 'GET') return { 200: { types: produces } };
  if (method === 'DELETE') return answersNothing;
  const json = { types: [jsonType] };
  if (method === 'PUT') return { 200: json, 204: {} };
  return path.includes('/actions/') ? { 200: json, 204: {} } : { 200: json, ...answersCreated };
}
