import type { ErrorBody } from '../edge.js';
import { html, type Html } from './html.js';
import { nameOf, renderPage, type PageFrame } from './page.js';
import {
  anchor,
  badge,
  isMembers,
  isUrl,
  renderLinks,
  renderProperties,
  renderRows,
  renderValue,
  type Members,
} from './values.js';

/** A resource or a list as a page: the same members that its JSON has. */
export function renderResource(body: Members, frame: PageFrame, summary: string): string {
  const { _links: links, content, ...members } = body;
  const { name, siteName } = members;
  const title = [name, siteName].find((text) => typeof text === 'string' && text !== '');
  const heading = typeof title === 'string' ? title : nameOf(frame.url);
  const state = [members['status'], members['resourceStatus'], members['state']].find(
    (text) => typeof text === 'string',
  );
  const known = isMembers(links) ? links : {};
  return renderPage(
    heading,
    frame,
    html`<h1>${heading} ${typeof state === 'string' && badge(state)}</h1>
      <p class="lead">${summary}</p>
      ${isMembers(content) && renderMember('content', content, frame.url)}
      ${renderShort(members, frame.url)} ${renderLinkTable(known, frame.baseUrl)}
      ${renderLong(members, frame.url)} ${renderPaging(known)}`,
  );
}

const titles: Readonly<Record<number, string>> = {
  401: 'Sign in',
  403: 'Not allowed',
  404: 'Not found',
};

export function renderError({ status, errorMessage }: ErrorBody, frame: PageFrame): string {
  const title = titles[status] ?? 'This did not work';
  return renderPage(
    title,
    frame,
    html`<h1>${title}</h1>
      <div class="card problem">
        ${errorMessage}<br /><small class="none">HTTP ${status}</small>
      </div>
      ${
        (status === 401 || status === 403) &&
        html`<p class="lead">
          Sign in with a client certificate, or with the name and password of a user of this site.
        </p>`
      }`,
  );
}

type Member = readonly [name: string, value: unknown];

/** What gets a card of its own. */
function isLong([name, value]: Member): boolean {
  if (name === 'log' || isNested(value)) return true;
  return Array.isArray(value) && value.some((each) => isUrl(each) || isMembers(each));
}

/** Short members together in one card. */
function renderShort(members: Members, url: string): Html {
  const short = Object.entries(members).filter((entry) => !isLong(entry));
  // the array of a list is what the page is about, however empty
  const list = nameOf(url);
  const empty = short.find(([name, value]) => name === list && Array.isArray(value));
  const others = short.filter((entry) => entry !== empty);
  return html`${
    others.length > 0 && renderCard('Properties', renderProperties(Object.fromEntries(others)))
  }
  ${empty && renderCard(list, html`<p class="lead problem">There are none.</p>`)}`;
}

function renderLong(members: Members, url: string): Html {
  const long = Object.entries(members).filter(isLong);
  return html`${long.map(([name, value]) => renderMember(name, value, url))}`;
}

function isNested(value: unknown): boolean {
  return isMembers(value) && Object.keys(value).length > 0;
}

function renderMember(name: string, value: unknown, url: string): Html {
  if (name === 'content' && isMembers(value))
    return renderCard('Files', renderDirectory(value, url), Object.keys(value).length);
  if (Array.isArray(value)) {
    const list = value as readonly unknown[];
    const content = list.every(isUrl)
      ? renderLinks(list)
      : name === 'log'
        ? renderLog(list)
        : list.every(isMembers)
          ? renderRows(list)
          : renderValue(list);
    return renderCard(name, content, list.length);
  }
  return renderCard(name, isMembers(value) ? renderProperties(value) : renderValue(value));
}

function renderCard(title: string, content: Html, count?: number): Html {
  return html`<section class="card">
    <h2>${title}${count !== undefined && html`<small>${count}</small>`}</h2>
    ${content}
  </section>`;
}

function renderLog(lines: readonly unknown[]): Html {
  return html`<ol class="log mono">
    ${lines.map((line) => html`<li>${String(line)}</li>`)}
  </ol>`;
}

/** The names of a directory are paths from its storage's root: the address up to `/files` leads there. */
function renderDirectory(content: Members, url: string): Html {
  const root = url.slice(0, url.indexOf('/files') + '/files'.length);
  const rows = Object.entries(content).filter((entry): entry is [string, Members] =>
    isMembers(entry[1]),
  );
  return html`<div class="scroll">
    <table>
      <thead>
        <tr>
          <th scope="col">Name</th>
          <th scope="col">Size</th>
          <th scope="col">Changed</th>
          <th scope="col">Permissions</th>
          <th scope="col">Owner</th>
        </tr>
      </thead>
      <tbody>
        ${rows.map(([path, { isDirectory, size, lastAccessed, permissions, owner }]) => {
          const address = root + path.split('/').map(encodeURIComponent).join('/');
          const name = nameOf(address) + (isDirectory === true ? '/' : '');
          return html`<tr>
            <td class="mono">${anchor(address.replace(/\/$/, ''), name)}</td>
            <td class="number">${isDirectory === true ? '' : readableSize(size)}</td>
            <td>${renderValue(lastAccessed)}</td>
            <td class="mono">${renderValue(permissions)}</td>
            <td>${renderValue(owner)}</td>
          </tr>`;
        })}
      </tbody>
    </table>
  </div>`;
}

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const;

function readableSize(bytes: unknown): string {
  if (typeof bytes !== 'number') return '';
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(bytes, 1)) / 10));
  const amount = bytes / 1024 ** power;
  return `${power === 0 ? amount : amount.toFixed(1)} ${units[power] ?? ''}`;
}

function hrefOf(link: unknown): string | undefined {
  return isMembers(link) && isUrl(link['href']) ? link['href'] : undefined;
}

function renderPaging(links: Members): Html | undefined {
  const [previous, next] = [hrefOf(links['previous']), hrefOf(links['next'])];
  if (previous === undefined && next === undefined) return undefined;
  return html`<nav class="pages" aria-label="Pages">
    ${previous !== undefined && html`<a rel="prev" href="${previous}">← Previous</a>`}
    ${next !== undefined && html`<a rel="next" href="${next}">Next →</a>`}
  </nav>`;
}

const pagingLinks = new Set(['self', 'next', 'previous']);

/** Where one can go from here; what POST does is told, not done: a page changes nothing. */
function renderLinkTable(links: Members, baseUrl: string): Html | undefined {
  const rows = Object.entries(links).flatMap(([rel, link]) => {
    const href = hrefOf(link);
    if (href === undefined || pagingLinks.has(rel)) return [];
    const about = isMembers(link) ? link['description'] : undefined;
    const isAction = rel.startsWith('action:');
    const path = href.startsWith(`${baseUrl}/`) ? href.slice(baseUrl.length) : href;
    return [
      html`<tr>
        <th scope="row">${isAction ? rel.slice('action:'.length) : rel}</th>
        <td>${isAction ? html`<code>POST ${path}</code>` : anchor(href, path)}</td>
        <td>${typeof about === 'string' && about}</td>
      </tr>`,
    ];
  });
  if (rows.length === 0) return undefined;
  return renderCard(
    'Links',
    html`<table>
      <tbody>
        ${rows}
      </tbody>
    </table>`,
  );
}
