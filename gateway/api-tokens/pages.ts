import { html, Html } from '#kernel/http/html/html.js';
import { contentPolicy } from '#kernel/http/html/page.js';
import { style } from '#kernel/http/html/style.js';
import { tokensPath } from '../config.js';
import type { SiteToken } from './site-token.js';

/** Where the form is, and where it goes. */
export const formPath = `/${tokensPath}`;

/** Nobody keeps what these pages show. */
const common = [
  ...['Content-Type', 'text/html; charset=utf-8', 'Cache-Control', 'no-store'],
  ...['X-Content-Type-Options', 'nosniff', 'Cross-Origin-Resource-Policy', 'same-origin'],
];
const apart = ['Cross-Origin-Opener-Policy', 'same-origin'];

/** Its origin is sent with the form, whose sender is looked at (ADR 44). */
export const formHeaders = [
  ...[...common, ...apart, 'Content-Security-Policy', contentPolicy("'self'")],
  ...['Referrer-Policy', 'same-origin'],
];

/** In a sandbox a page may not go on by itself. */
export const departureHeaders = [
  ...[...common, ...apart, 'Content-Security-Policy', contentPolicy()],
  ...['Referrer-Policy', 'no-referrer'],
];

/**
 * Sites share the gateway's origin: a script of theirs could open this page and read it, were it not for the sandbox,
 * which gives it an origin of its own. A sandbox and a policy for openers exclude each other.
 */
export const resultHeaders = [
  ...[...common, 'Content-Security-Policy', `${contentPolicy()}; sandbox`],
  ...['Referrer-Policy', 'no-referrer'],
];

function renderPage(title: string, content: Html, head?: Html): string {
  return html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>${title} · UNICORE gateway</title>
        <link rel="icon" href="data:," />
        ${head} ${new Html(`<style>${style}</style>`)}
      </head>
      <body>
        <header class="top">
          <div>
            <span class="brand">UNICORE gateway</span>
            <nav><a href="/">Sites</a> <a href="${formPath}">Tokens</a></nav>
          </div>
        </header>
        <main>
          <h1>${title}</h1>
          ${content}
        </main>
      </body>
    </html>`.toString();
}

export type FormFacts = {
  readonly issuer: string;
  readonly sites: readonly string[];
  readonly lifetimeSeconds: number;
};

export function renderForm({ issuer, sites, lifetimeSeconds }: FormFacts): string {
  const boxes = sites.map(
    (name) =>
      html`<label><input type="checkbox" name="site" value="${name}" checked /> ${name}</label>`,
  );
  return renderPage(
    'Get a token',
    html`<p class="lead">
        A token lets a program act for you until it ends. You log in at <code>${issuer}</code>; each
        site that you choose is shown that login and gives a token of its own.
      </p>
      <form class="card" method="post" action="${formPath}">
        <fieldset>
          <legend>Sites</legend>
          ${boxes}
        </fieldset>
        <label class="field" for="lifetime">Lifetime <small>in seconds</small></label>
        <input
          id="lifetime"
          name="lifetime"
          inputmode="numeric"
          required
          value="${lifetimeSeconds}"
        />
        <fieldset>
          <legend>Rights</legend>
          <label
            ><input type="checkbox" name="limited" value="true" /> only for the site that gives
            it</label
          >
          <label
            ><input type="checkbox" name="renewable" value="true" /> may be exchanged for a newer
            one</label
          >
        </fieldset>
        <label class="field" for="userprefs"
          >Preferences <small>optional, such as role:user,group:physics</small></label
        >
        <input id="userprefs" name="userprefs" autocomplete="off" />
        <div><button>Log in and get tokens</button></div>
      </form>`,
  );
}

/** A page and no redirection: browsers would hold those of a form to the form's policy, the provider's own too. */
export function renderDeparture(issuer: string, url: URL): string {
  const refresh = html`<meta http-equiv="refresh" content="0; url=${url.href}" />`;
  return renderPage(
    'Log in',
    html`<p class="lead"><a href="${url.href}">Go on to ${issuer}</a></p>`,
    refresh,
  );
}

export function renderTokens(origin: string, tokens: readonly SiteToken[]): string {
  return renderPage(
    'Your tokens',
    html`<p class="lead">
        They are shown this once and kept nowhere. Whoever has one can act for you until it ends.
      </p>
      ${tokens.map((each) => renderToken(origin, each))}`,
  );
}

function renderToken(origin: string, result: SiteToken): Html {
  const { site } = result;
  if (!('token' in result))
    return html`<section class="card">
      <h2>${site}</h2>
      <div class="problem">${result.reason}</div>
    </section>`;
  const { token, endsMs } = result;
  const file = `${site}.token`;
  const rest = `${origin}/${site}/rest`;
  const commands = [
    ['Save it where only you may read it (paste, Enter, Ctrl-D)', `(umask 077; cat > ${file})`],
    ['curl', `curl --oauth2-bearer "$(cat ${file})" -H 'Accept: application/json' ${rest}/core`],
    [
      'UCC, in its preferences file',
      `authentication-method=bearer-token\ntoken=${token}\nregistry=${rest}/registries/default_registry`,
    ],
    [
      'pyunicore',
      'from pyunicore import client, credentials\n' +
        `credential = credentials.OIDCToken(open("${file}").read().strip())\n` +
        `site = client.Client(credential, "${rest}/core")`,
    ],
  ];
  const until = endsMs === undefined ? '' : `until ${new Date(endsMs).toISOString()}`;
  return html`<section class="card">
    <h2>${site} <small>${until}</small></h2>
    <pre class="copy" id="token-${site}">${token}</pre>
    ${commands.map(
      ([what, text]) =>
        html`<p class="label">${what}</p>
          <pre class="copy">${text}</pre>`,
    )}
  </section>`;
}

export function renderProblem(message: string): string {
  return renderPage(
    'No tokens',
    html`<div class="card problem">${message}</div>
      <p><a href="${formPath}">Begin again</a></p>`,
  );
}
