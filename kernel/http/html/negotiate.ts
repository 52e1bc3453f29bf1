import type { IncomingMessage } from 'node:http';
import express from 'express';
import type { ErrorBody } from '../edge.js';
import type { OperationFacts } from '../operation.js';
import { htmlType, jsonType, type Reply, type ReplyHeaders } from '../reply.js';
import { htmlHeaders, type PageFrame } from './page.js';
import { renderError, renderResource } from './resource.js';
import { isMembers } from './values.js';

/** express' method, which reads the headers only. */
// eslint-disable-next-line @typescript-eslint/unbound-method -- it is called with the request
const accepts = express.request.accepts as (
  this: IncomingMessage,
  types: string[],
) => string | false;

/** The one of `types` that the client likes best; the first if it does not care. */
export function preferredType(
  request: IncomingMessage,
  types: readonly string[],
): string | undefined {
  const { accept = '*/*' } = request.headers;
  // what nearly all programs send
  if (accept === '*/*') return types[0];
  if (types.includes(accept)) return accept;
  return accepts.call(request, [...types]) || undefined;
}

/** Whether a person asks: programs take anything, or JSON. */
export function prefersHtml(request: IncomingMessage): boolean {
  return preferredType(request, [jsonType, htmlType]) === htmlType;
}

/** The same as a page, if it is JSON. */
export function toPage(reply: Reply, frame: PageFrame, { summary }: OperationFacts): Reply {
  const { status, headers, body } = reply;
  if (typeof body !== 'string' || headers['content-type'] !== jsonType) return reply;
  const members: unknown = JSON.parse(body);
  if (!isMembers(members)) return reply;
  return {
    status,
    headers: { ...headers, ...htmlHeaders },
    body: renderResource(members, frame, summary),
  };
}

export function toErrorPage(
  error: ErrorBody,
  frame: PageFrame,
): { headers: ReplyHeaders; body: string } {
  return { headers: htmlHeaders, body: renderError(error, frame) };
}
