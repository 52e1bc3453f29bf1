import assert from 'node:assert/strict';
import { IncomingMessage, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { describe, it } from 'node:test';
import express, { type Request, type Response } from 'express';
import { OperationTable } from '#kernel/http/operation-table.js';

const operations = (
  [
    ['GET', '/rest/core/'],
    ['GET', '/rest/core/jobs'],
    ['POST', '/rest/core/jobs'],
    ['GET', '/rest/core/jobs/:jobId'],
    ['GET', '/rest/core/jobs/:jobId/details'],
    ['PUT', '/rest/core/jobs/:jobId/actions/:action'],
    ['GET', '/rest/core/storages/:id/files{/*path}'],
    ['GET', '/rest/core/:anything/else'],
    ['GET', '/rest/core/jobs/last'],
    ['GET', '/rest/files/:key'],
    ['DELETE', '/rest/a.b-c_d/:id'],
    ['GET', '/things{/*path}'],
  ] as const
).map(([method, path]) => ({ method, path, operation: `${method} ${path}` }));

const table = new OperationTable(operations);
const router = express.Router({ caseSensitive: true });
for (const { method, path, operation } of operations)
  router[method.toLowerCase() as 'get'](path, ({ params }: Request, response: Response) => {
    (response as unknown as Found).found = [
      operation,
      Object.entries(params as Record<string, string | string[]>)
        .map(([name, value]) => [name, Array.isArray(value) ? value.join('/') : value])
        .filter(([, value]) => value !== undefined),
    ];
  });
type Found = { found?: unknown };

/** What express finds, without a connection. */
function byExpress(method: string, url: string): unknown {
  const request = Object.assign(new IncomingMessage(new Socket()), { method, url });
  const response: ServerResponse & Found = new ServerResponse(request);
  let error: unknown;
  router(request as Request, response as Response, (thrown: unknown) => (error = thrown));
  return error instanceof URIError ? 'malformed' : response.found;
}

function byTable(method: string, path: string): unknown {
  try {
    const found = table.find(method, path);
    return found && [found.operation, Object.entries(found.params)];
  } catch (error) {
    return error instanceof URIError ? 'malformed' : error;
  }
}

describe('the table of operations', () => {
  const paths = [
    ...['/', '/rest', '/rest/core', '/rest/core/', '/rest/core//', '/Rest/core', '/rest/cor'],
    ...['/rest/core/jobs', '/rest/core/jobs/', '/rest/core/jobs//', '/rest/core//jobs'],
    ...[
      '/rest/core/jobs/7',
      '/rest/core/jobs/7/',
      '/rest/core/jobs/a%20b%2Fc',
      '/rest/core/jobs/last',
    ],
    ...['/rest/core/jobs/7/details', '/rest/core/jobs/7/Details', '/rest/core/jobs/else'],
    ...['/rest/core/jobs/7/actions/abort', '/rest/core/jobsx/7', '/rest/core/jobs/7/8/9'],
    ...['/rest/core/j%6Fbs/7', '/rest/core/%zz'],
    ...[
      '/rest/core/storages/s/files',
      '/rest/core/storages/s/files/',
      '/rest/core/storages/s/files/a',
    ],
    ...[
      '/rest/core/storages/s/files/a//b',
      '/rest/core/storages/s/files/a/b%2Fc/',
      '/rest/core/x/else',
    ],
    ...[
      '/rest/files/KEY',
      '/rest/files/',
      '/rest/a.b-c_d/1',
      '/things',
      '/things/a/b',
      '/thingsa',
      '',
    ],
  ];
  for (const method of ['GET', 'HEAD', 'PUT', 'POST', 'DELETE', 'PATCH'])
    it(`finds for ${method} what express does`, () => {
      const found = paths.map((path) => byTable(method, path));
      const expected = paths.map((path) => byExpress(method, path));
      assert.deepEqual(
        paths.map((path, at) => [path, found[at]]),
        paths.map((path, at) => [path, expected[at]]),
      );
    });

  it('says of text that is not URL encoded that it is not, as express does', () => {
    for (const path of ['/rest/core/jobs/%zz', '/rest/core/storages/s/files/%'])
      assert.deepEqual([byTable('GET', path), byExpress('GET', path)], ['malformed', 'malformed']);
  });

  it('gives the first of two operations that fit, whatever their paths begin with', () => {
    assert.equal(
      table.find('GET', '/rest/core/jobs/else')?.operation,
      'GET /rest/core/jobs/:jobId',
    );
    assert.equal(
      table.find('GET', '/rest/core/x/else')?.operation,
      'GET /rest/core/:anything/else',
    );
  });
});
