import { createHash } from 'node:crypto';
import { z } from 'zod';
import { answersWith } from '../answers.js';
import { html } from '../html/html.js';
import { htmlHeaders, renderPage } from '../html/page.js';
import { authenticated, everybody, operations, type Context } from '../operation.js';
import { htmlType, jsonType, type Reply } from '../reply.js';
import type { Mount } from '../router.js';
import { describeApi, type ApiInfo, type OpenApi } from './document.js';
import { renderApiPage } from './page.js';

/** Serves the document of everything that is mounted, written when somebody asks for it first. */
export class ApiDocument {
  readonly #write: () => OpenApi;
  #document: OpenApi | undefined;

  /** @param mounts asked for late, as the operations below are among them */
  constructor(info: ApiInfo, mounts: () => readonly Mount[]) {
    this.#write = () => describeApi(mounts(), info);
  }

  get(): OpenApi {
    return (this.#document ??= this.#write());
  }
}

type Deps = {
  readonly api: ApiDocument;
  /** Where the service begins. */
  readonly start: string;
};
const operation = operations<Deps>();
const tag = 'documentation';

const getDocument = operation({
  method: 'GET',
  path: '/openapi.json',
  id: 'getOpenApi',
  tag,
  summary: 'This interface as an OpenAPI 3.1 document',
  input: z.object({}),
  produces: [jsonType, htmlType],
  answers: {
    200: { types: [jsonType, htmlType], headers: { etag: 'Changes when the document does' } },
    304: {},
  },
  policy: everybody,
  run: (deps, _input, context) => {
    if (context.accepts([jsonType, htmlType]) === htmlType) return renderDocument(deps, context);
    const body = JSON.stringify({ ...deps.api.get(), servers: [{ url: context.baseUrl }] });
    return unlessKnown({ status: 200, headers: { 'content-type': jsonType }, body }, context);
  },
});

const getPage = operation({
  method: 'GET',
  path: '/docs',
  id: 'getDocumentation',
  tag,
  summary: 'This interface as a page for people',
  input: z.object({}),
  produces: [htmlType],
  answers: { ...answersWith(htmlType), 304: {} },
  policy: everybody,
  run: (deps, _input, context) => renderDocument(deps, context),
});

/** Pages that everybody may read do not ask: this one does, and for all that is below `/rest/` (RFC 7617, 2.2). */
const signIn = operation({
  method: 'GET',
  path: '/sign-in',
  id: 'signIn',
  tag,
  summary: 'Asks a browser for name and password, and tells who is signed in',
  input: z.object({}),
  produces: [htmlType],
  answers: answersWith(htmlType),
  policy: authenticated,
  run: ({ start }, _input, context) => {
    const { dn, role } = context.caller;
    const content = html`<h1>Signed in</h1>
      <p class="lead">You are <code>${dn}</code>, with the role ${role}.</p>
      <p><a href="${context.baseUrl}${start}">Start</a></p>`;
    const body = renderPage('Signed in', { ...context, start }, content);
    return { status: 200, headers: { ...htmlHeaders, 'cache-control': 'no-store' }, body };
  },
});

function renderDocument({ api, start }: Deps, context: Context): Reply {
  const body = renderApiPage(api.get(), { ...context, start });
  return unlessKnown({ status: 200, headers: htmlHeaders, body }, context);
}

/** 304 where the client has it already. */
function unlessKnown(reply: Reply & { readonly body?: string }, { headers }: Context): Reply {
  const etag = `"${createHash('sha256')
    .update(reply.body ?? '')
    .digest('base64url')}"`;
  const known = headers['if-none-match']?.split(',').map((each) => each.trim().replace(/^W\//, ''));
  const cache = { etag, vary: 'accept', 'cache-control': 'no-cache' };
  return known?.includes(etag) === true
    ? { status: 304, headers: cache }
    : { ...reply, headers: { ...reply.headers, ...cache } };
}

export const apiOperations = [getDocument, getPage, signIn];
