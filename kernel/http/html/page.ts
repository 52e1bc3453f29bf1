import { createHash } from 'node:crypto';
import type { Caller } from '../caller.js';
import { htmlType, type ReplyHeaders } from '../reply.js';
import { html, Html } from './html.js';
import { style } from './style.js';

/** What a page shows besides its own content. */
export type PageFrame = {
  /** The site's address as the client sees it, without a slash at the end. */
  readonly baseUrl: string;
  /** Address of what is shown, without query. */
  readonly url: string;
  readonly caller?: Caller | undefined;
  /** Where the service begins, below `baseUrl`: `/rest/core`. */
  readonly start: string;
};

const styleHash = createHash('sha256').update(style).digest('base64');

/** Nothing but our own style: no script, no frame, forms only if they are asked for. */
export function contentPolicy(formAction: "'none'" | "'self'" = "'none'"): string {
  return [
    "default-src 'none'",
    `style-src 'sha256-${styleHash}'`,
    'img-src data:',
    "base-uri 'none'",
    `form-action ${formAction}`,
    "frame-ancestors 'none'",
  ].join('; ');
}

/** No form either, and no address given away. */
export const htmlHeaders: ReplyHeaders = {
  'content-type': `${htmlType}; charset=utf-8`,
  'content-security-policy': contentPolicy(),
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
};

export function renderPage(title: string, frame: PageFrame, content: Html): string {
  const { baseUrl, caller, start } = frame;
  const siteName = baseUrl.slice(baseUrl.lastIndexOf('/') + 1);
  const signedIn = caller !== undefined && caller.role !== 'anonymous';
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>${title} · ${siteName}</title>
        <link rel="icon" href="data:," />
        ${new Html(`<style>${style}</style>`)}
      </head>
      <body>
        <header class="top">
          <div>
            <span class="brand">${siteName}</span>
            <nav aria-label="Site">
              <a href="${baseUrl}${start}">Start</a>
              <a href="${baseUrl}/rest/docs">API</a>
            </nav>
            <span class="who"
              >${signedIn ? caller.dn : html`<a href="${baseUrl}/rest/sign-in">Sign in</a>`}</span
            >
          </div>
        </header>
        <main>${renderCrumbs(frame)} ${content}</main>
        <footer>
          Programs get the same as JSON:
          <code>curl -H 'Accept: application/json' ${frame.url}</code>
        </footer>
      </body>
    </html>`.toString();
}

type Crumb = { readonly href: string; readonly text: string };

/** The services and resources above the one that is shown, from its address. */
function crumbsOf({ baseUrl, url }: PageFrame): Crumb[] {
  const segments = url.slice(baseUrl.length).split('/').filter(Boolean);
  const crumbs = segments.map((segment, at) => ({
    href: `${baseUrl}/${segments.slice(0, at + 1).join('/')}`,
    text: decode(segment),
  }));
  return segments[0] === 'rest' ? crumbs.slice(1) : crumbs;
}

function renderCrumbs(frame: PageFrame): Html {
  const crumbs = crumbsOf(frame);
  return html`<nav class="crumbs" aria-label="Breadcrumb">
    ${crumbs.map(({ href, text }, at) =>
      at < crumbs.length - 1
        ? html`<a href="${href}">${text}</a>`
        : html`<span aria-current="page">${text}</span>`,
    )}
  </nav>`;
}

/** The last segment of an address, for people. */
export function nameOf(url: string): string {
  const path = url.split('?', 1)[0]?.replace(/\/+$/, '') ?? url;
  return decode(path.slice(path.lastIndexOf('/') + 1));
}

function decode(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}
