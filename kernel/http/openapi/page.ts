import { html, type Html } from '../html/html.js';
import { renderPage, type PageFrame } from '../html/page.js';
import type { ApiContent, ApiOperation, ApiParameter, OpenApi } from './document.js';
import type { JsonSchema } from './schema.js';

const tones: Readonly<Record<string, string>> = {
  get: 'calm',
  post: 'good',
  put: 'busy',
  delete: 'bad',
};
const deepest = 4;

/** The API document for people. */
export function renderApiPage(document: OpenApi, frame: PageFrame): string {
  const { info, tags, paths, components } = document;
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
  return renderPage(
    info.title,
    frame,
    html`<h1>${info.title} <span class="badge calm">${info.version}</span></h1>
      <p class="lead">${info.description}</p>
      <ul class="contents">
        ${tags.map(({ name }) => html`<li><a href="#${name}">${name}</a></li>`)}
        <li><a href="#schemas">schemas</a></li>
        <li><a href="${frame.baseUrl}/rest/openapi.json">OpenAPI document</a></li>
      </ul>
      ${tags.map(
        ({ name }) =>
          html`<section class="card" id="${name}">
            <h2>${name}</h2>
            ${operations
              .filter(({ operation }) => operation.tags.includes(name))
              .map(({ path, method, operation }) => renderOperation(path, method, operation))}
          </section>`,
      )}
      <section class="card" id="schemas">
        <h2>schemas</h2>
        ${Object.entries(components.schemas).map(
          ([name, schema]) =>
            html`<details class="operation" id="schema-${name}">
              <summary><span class="mono">${name}</span></summary>
              <div>${renderSchema(schema)}</div>
            </details>`,
        )}
      </section>`,
  );
}

function renderOperation(path: string, method: string, operation: ApiOperation): Html {
  const { operationId, summary, description, parameters, requestBody, responses } = operation;
  const statuses = Object.entries(responses);
  const isFailure = ([status]: readonly [string, unknown]): boolean => Number(status) >= 400;
  return html`<details class="operation" id="${operationId}">
    <summary>
      <span class="badge method ${tones[method]}">${method.toUpperCase()}</span>
      <span class="mono">${path}</span><span class="what">${summary}</span>
    </summary>
    <div>
      <p>${description}</p>
      ${parameters.length > 0 && renderParameters(parameters)}
      ${
        requestBody &&
        html`<h3>Body</h3>
          ${renderContent(requestBody.content)}`
      }
      ${statuses
        .filter((each) => !isFailure(each))
        .map(
          ([status, { description: about, headers = {}, content = {} }]) =>
            html`<h3>${status} ${about}</h3>
              ${Object.keys(headers).map((name) => html`<p>Header <code>${name}</code></p>`)}
              ${renderContent(content)}`,
        )}
      <h3>Refused with</h3>
      <ul class="plain">
        ${statuses
          .filter(isFailure)
          .map(
            ([status, { description: about }]) => html`<li><code>${status}</code> ${about}</li>`,
          )}
      </ul>
    </div>
  </details>`;
}

function renderParameters(parameters: readonly ApiParameter[]): Html {
  return html`<h3>Parameters</h3>
    <table>
      <tbody>
        ${parameters.map(
          ({ name, in: where, required, schema, description }) =>
            html`<tr>
              <th scope="row"><span class="mono">${name}</span> ${required && '*'}</th>
              <td>${where}</td>
              <td>${typeOf(schema)} ${description}</td>
            </tr>`,
        )}
      </tbody>
    </table>`;
}

function renderContent(content: ApiContent): Html {
  return html`${Object.entries(content)
    .filter(([type]) => type !== 'text/html')
    .map(
      ([type, { schema }]) =>
        html`<p><code>${type}</code></p>
          ${renderSchema(schema)}`,
    )}`;
}

function renderSchema(schema: JsonSchema, depth = 0): Html {
  const { properties, required = [] } = schema;
  if (!properties || Object.keys(properties).length === 0 || depth > deepest)
    return html`<p>${typeOf(schema)} ${schema.description}</p>`;
  return html`<table>
    <tbody>
      ${Object.entries(properties).map(([name, each]) => {
        const nested = each.properties ?? each.items?.properties;
        return html`<tr>
          <th scope="row"><span class="mono">${name}</span> ${required.includes(name) && '*'}</th>
          <td>
            ${typeOf(each)} ${each.description}
            ${nested && renderSchema({ properties: nested }, depth + 1)}
          </td>
        </tr>`;
      })}
    </tbody>
  </table>`;
}

/** A schema in one line: `integer, 1 to 10, default 3`. */
function typeOf(schema: JsonSchema): Html {
  const { $ref, type, items, anyOf, oneOf, allOf } = schema;
  if ($ref !== undefined) {
    const name = $ref.slice($ref.lastIndexOf('/') + 1);
    return html`<a href="#schema-${name}">${name}</a>`;
  }
  const choice = anyOf ?? oneOf ?? allOf;
  if (choice)
    return html`${choice.map((each, at) => html`${at > 0 && ' or '}${typeOf(each)}`)}${facts(schema)}`;
  if (items) return html`list of ${typeOf(items)}${facts(schema)}`;
  return html`${typeof type === 'object' ? type.join(' or ') : (type ?? 'any value')}${facts(schema)}`;
}

function facts(schema: JsonSchema): Html {
  const { enum: values, const: only, default: preset, format, pattern } = schema;
  const { minimum, maximum, minLength, maxLength } = schema;
  const bound = (name: string, value: unknown): Html | false =>
    typeof value === 'number' && Math.abs(value) < Number.MAX_SAFE_INTEGER
      ? html`, ${name} ${value}`
      : false;
  return html`${values && html`: ${values.map((each) => html`<code>${text(each)}</code> `)}`}${
    only !== undefined && html`: <code>${text(only)}</code>`
  }${
    format !== undefined && html`, ${format}`
  }${bound('at least', minimum)}${bound('at most', maximum)}${bound(
    'characters at least',
    minLength,
  )}${bound('characters at most', maxLength)}${
    pattern !== undefined && format === undefined && html`, like <code>${pattern}</code>`
  }${preset !== undefined && html`, default <code>${text(preset)}</code>`}`;
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}
