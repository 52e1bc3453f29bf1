import { html, type Html } from './html.js';
import { nameOf } from './page.js';

export type Members = Readonly<Record<string, unknown>>;

/** How states look: those of jobs, resources, images and machines. */
const tones: Readonly<Record<string, string>> = {
  SUCCESSFUL: 'good',
  READY: 'good',
  PUBLISHED: 'good',
  OK: 'good',
  DONE: 'good',
  FAILED: 'bad',
  ERROR: 'bad',
  ABORTED: 'bad',
  DOWN: 'bad',
  RUNNING: 'busy',
  INITIALIZING: 'busy',
  DEGRADED: 'busy',
  STAGINGIN: 'busy',
  STAGINGOUT: 'busy',
  UNREACHABLE: 'bad',
};

export function badge(state: string): Html {
  return html`<span class="badge ${Object.hasOwn(tones, state) ? tones[state] : 'calm'}"
    >${state}</span
  >`;
}

export function isMembers(value: unknown): value is Members {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Only what a browser may follow: a stored `javascript:` stays text. */
export function isUrl(value: unknown): value is string {
  return typeof value === 'string' && /^https?:\/\/[^\s"'<>]+$/.test(value);
}

export function anchor(url: string, text = url): Html {
  return html`<a href="${url}">${text}</a>`;
}

const nothing = html`<span class="none">–</span>`;

/** Any value of a JSON answer; objects and lists as tables within tables. */
export function renderValue(value: unknown, name = ''): Html {
  if (value === null || value === undefined || value === '') return nothing;
  if (Array.isArray(value)) return renderList(value);
  if (isMembers(value)) return Object.keys(value).length === 0 ? nothing : renderProperties(value);
  if (isUrl(value)) return anchor(value);
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  if (/status$|state$/i.test(name) && /^[A-Z_]+$/.test(text)) return badge(text);
  return text.includes('\n') ? html`<pre>${text}</pre>` : html`${text}`;
}

export function renderProperties(members: Members): Html {
  return html`<table>
    <tbody>
      ${Object.entries(members).map(
        ([name, value]) =>
          html`<tr>
            <th scope="row">${name}</th>
            <td>${renderValue(value, name)}</td>
          </tr>`,
      )}
    </tbody>
  </table>`;
}

function renderList(list: readonly unknown[]): Html {
  if (list.length === 0) return nothing;
  if (list.every(isMembers)) return renderRows(list);
  const isPlain = list.every((each) => typeof each !== 'object' && !isUrl(each));
  return html`<ul class="${isPlain ? 'chips' : 'plain'}">
    ${list.map((each) => html`<li>${isUrl(each) ? anchor(each) : renderValue(each)}</li>`)}
  </ul>`;
}

const mostColumns = 8;

/** Objects alike as a table with a column for each member; many members one below the other. */
export function renderRows(rows: readonly Members[]): Html {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  if (names.length > mostColumns)
    return html`${rows.map((row) => html`<div class="card">${renderProperties(row)}</div>`)}`;
  return html`<div class="scroll">
    <table>
      <thead>
        <tr>
          ${names.map((name) => html`<th scope="col">${name}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          (row) =>
            html`<tr>
              ${names.map((name) => html`<td>${renderValue(row[name], name)}</td>`)}
            </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

/** Addresses, each by its last segment. */
export function renderLinks(urls: readonly string[]): Html {
  return html`<table>
    <tbody>
      ${urls.map(
        (url) =>
          html`<tr>
            <td class="mono">${anchor(url, nameOf(url))}</td>
          </tr>`,
      )}
    </tbody>
  </table>`;
}
