import type { IncomingMessage, ServerResponse } from 'node:http';
import { tokensPath } from './config.js';
import { sendBody } from './reply.js';
import type { SiteTable } from './site.js';

export type FrontPage = {
  /** Absent: nobody is told. */
  readonly sites: SiteTable | undefined;
  readonly givesTokens: boolean;
};

type Row = { readonly name: string; readonly up: boolean; readonly requests: number };

/** `GET /`: the sites and whether they answer; JSON for programs, a page for people. */
export async function sendFrontPage(
  request: IncomingMessage,
  response: ServerResponse,
  { sites, givesTokens }: FrontPage,
  own: readonly string[],
): Promise<void> {
  const now = Date.now();
  const rows = await Promise.all(
    (sites?.all() ?? []).map(async (site) => ({
      name: site.name,
      up: await site.isUp(now),
      requests: site.requests,
    })),
  );
  const accept = request.headers.accept ?? '';
  const asJson = accept.includes('application/json') && !accept.includes('text/html');
  const [type, body] = asJson
    ? ['application/json', renderJson(rows)]
    : ['text/html; charset=utf-8', renderHtml(sites && rows, givesTokens)];
  const policy = "default-src 'none'; style-src 'unsafe-inline'";
  sendBody(
    response,
    200,
    ['Content-Type', type, 'Content-Security-Policy', policy, 'Vary', 'Accept', ...own],
    body,
  );
}

function statusText({ up }: Row): string {
  return up ? 'OK' : 'down';
}

function renderJson(rows: readonly Row[]): string {
  const sites = rows.map((row) => ({
    name: row.name,
    status: statusText(row),
    requests: row.requests,
    _links: { core: { href: `/${row.name}/rest/core` } },
  }));
  return JSON.stringify({ sites });
}

const heads = '<tr><th>Site</th><th>Status</th><th>Requests</th></tr>';

/** Names of sites are words (see the configuration's schema): nothing to escape. */
function renderHtml(rows: readonly Row[] | undefined, givesTokens: boolean): string {
  const lines = rows?.map(
    (row) =>
      `<tr><td>${row.name}</td><td class="${row.up ? 'up' : 'down'}">${statusText(row)}</td>` +
      `<td>${row.requests}</td></tr>`,
  );
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>UNICORE gateway</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 40em; margin: 3em auto; padding: 0 1em }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .4em .8em .4em 0; border-bottom: 1px solid #ccc }
.up { color: #176617 } .down { color: #a31515 }
</style>
<h1>UNICORE gateway</h1>
${lines ? `<table>\n${heads}\n${lines.join('\n')}\n</table>` : ''}${givesTokens ? `\n<p><a href="/${tokensPath}">Get a token</a></p>` : ''}
</html>
`;
}
