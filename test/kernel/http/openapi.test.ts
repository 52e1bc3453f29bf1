import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Validator } from '@seriousme/openapi-schema-validator';
import { z } from 'zod';
import { answersJson } from '#kernel/http/answers.js';
import { describeApi, type ApiOperation } from '#kernel/http/openapi/document.js';
import { authenticated, everybody, operations } from '#kernel/http/operation.js';
import { json, noContent } from '#kernel/http/reply.js';
import { mount } from '#kernel/http/router.js';

const operation = operations<object>();
const Thing = z
  .object({ name: z.string(), size: z.number().optional() })
  .meta({ id: 'Thing', description: 'What this test is about' });

const things = [
  operation({
    method: 'GET',
    path: '/things/:thingId',
    id: 'getThing',
    summary: 'Shows a thing',
    input: z.object({
      thingId: z.uuid(),
      fields: z.string().optional(),
      num: z.coerce.number().int().min(1).default(7).describe('how many'),
      all: z.stringbool().default(false),
    }),
    answers: answersJson(Thing),
    policy: everybody,
    run: () => json({}),
  }),
  operation({
    method: 'PUT',
    path: '/things/:thingId',
    summary: 'Changes a thing',
    input: z.object({ thingId: z.string(), name: z.string(), deep: z.array(Thing).optional() }),
    body: 'json',
    converters: { 'application/xml': () => ({}) },
    errors: ['CONFLICT'],
    policy: {
      rule: 'owner',
      description: 'whoever made it',
      decide: () => ({ allowed: true, why: 'a test' }),
    },
    run: () => noContent(),
  }),
  operation({
    method: 'PUT',
    path: '/files{/*path}',
    tag: 'bytes',
    summary: 'Stores bytes',
    input: z.object({ path: z.string().default('') }),
    body: 'raw',
    policy: authenticated,
    run: () => noContent(),
  }),
];

describe('the API document', () => {
  const mounts = [mount('/rest', things, {})];
  const info = { title: 'Things', version: '1.0.0', description: 'For this test' };
  const document = describeApi(mounts, info);
  const of = (path: string, method: string): ApiOperation => document.paths[path]![method]!;

  it('is valid OpenAPI 3.1', async () => {
    const { valid, errors } = await new Validator().validate({ ...document });
    assert.deepEqual([valid, errors ?? []], [true, []]);
  });

  it('takes path and query from the input, with their bounds, defaults and words', () => {
    const { parameters } = of('/rest/things/{thingId}', 'get');
    const facts = parameters.map(({ name, in: where, required }) => [name, where, required]);
    assert.deepEqual(facts, [
      ['thingId', 'path', true],
      ['fields', 'query', false],
      ['num', 'query', false],
      ['all', 'query', false],
    ]);
    const num = parameters.find(({ name }) => name === 'num');
    assert.equal(num?.description, 'how many');
    assert.deepEqual([num.schema['minimum'], num.schema.default], [1, 7]);
    assert.equal(parameters[3]?.schema.type, 'string');
  });

  it('leaves every member out where fields selects, and requires them elsewhere', () => {
    const { schema } = of('/rest/things/{thingId}', 'get').responses['200']!.content![
      'application/json'
    ]!;
    assert.deepEqual(schema.required, []);
    assert.deepEqual(document.components.schemas['Thing']?.required, ['name']);
  });

  it('shows what is no part of the path as body, with the media types that can be read', () => {
    const { requestBody, parameters } = of('/rest/things/{thingId}', 'put');
    assert.deepEqual(
      parameters.map(({ name }) => name),
      ['thingId'],
    );
    assert.deepEqual(Object.keys(requestBody!.content), ['application/json', 'application/xml']);
    const { schema } = requestBody!.content['application/json']!;
    assert.deepEqual(Object.keys(schema.properties!), ['name', 'deep']);
    assert.deepEqual(schema.required, ['name']);
    assert.equal(schema.properties!['deep']!.items!.$ref, '#/components/schemas/Thing');
  });

  it('writes an optional wildcard as two paths, and a raw body as bytes', () => {
    assert.equal(of('/rest/files', 'put').operationId, 'putFilesRoot');
    const { operationId, parameters, requestBody, tags } = of('/rest/files/{path}', 'put');
    assert.equal(operationId, 'putFilesByPath');
    assert.deepEqual(
      parameters.map(({ name, in: where }) => [name, where]),
      [['path', 'path']],
    );
    assert.deepEqual(Object.keys(requestBody!.content), ['application/octet-stream']);
    assert.deepEqual(tags, ['bytes']);
  });

  it('says who may, and what is refused', () => {
    const get = of('/rest/things/{thingId}', 'get');
    const put = of('/rest/things/{thingId}', 'put');
    assert.deepEqual([get.security[0], put.security.length], [{}, 4]);
    assert.ok(!put.security.some((each) => Object.keys(each).length === 0));
    assert.match(put.description, /whoever made it/);
    const refused = (each: ApiOperation) => Object.keys(each.responses).filter((s) => s >= '400');
    const common = ['400', '401', '403', '404', '431', '432', '500', '503'];
    assert.deepEqual(refused(get), [...common, '406'].sort());
    assert.deepEqual(refused(put), [...common, '409', '413', '415'].sort());
  });
});
