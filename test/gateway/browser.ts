import assert from 'node:assert/strict';
import { request } from 'node:https';
import type { IncomingHttpHeaders } from 'node:http';
import { text } from 'node:stream/consumers';

export type Page = {
  readonly url: URL;
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
};
export type Visit = {
  readonly form?: Readonly<Record<string, string | readonly string[]>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly method?: string;
  /** Another server of the same name: where to connect to instead. */
  readonly port?: number;
};

/** As much of a browser as a login takes: cookies, redirections, forms. */
export class Browser {
  readonly #ca: readonly string[];
  readonly #tls: object;
  /** By origin, which is stricter than browsers are. */
  readonly #cookies = new Map<string, Map<string, string>>();

  /** @param tls a client certificate, say */
  constructor(ca: readonly string[], tls: object = {}) {
    this.#ca = ca;
    this.#tls = tls;
  }

  /** What is sent to an origin. */
  cookiesOf(url: string): string {
    const jar = this.#cookies.get(new URL(url).origin) ?? new Map<string, string>();
    return [...jar].map(([name, value]) => `${name}=${value}`).join('; ');
  }

  async visit(address: string | URL, { form, method, headers, port }: Visit = {}): Promise<Page> {
    const url = new URL(address);
    const body = form && encode(form);
    const answer = await new Promise<Omit<Page, 'url'>>((resolve, reject) => {
      const asked = request(url, {
        ...{ ...this.#tls, ca: [...this.#ca], agent: false },
        ...(port !== undefined && { port }),
        method: method ?? (form ? 'POST' : 'GET'),
        headers: {
          ...(port !== undefined && { host: url.host }),
          ...{ accept: 'text/html', cookie: this.cookiesOf(url.href) },
          ...(body !== undefined && {
            ...{ origin: url.origin, 'sec-fetch-site': 'same-origin' },
            'content-type': 'application/x-www-form-urlencoded',
          }),
          ...headers,
        },
      });
      asked.on('error', reject).on('response', (response) => {
        const { statusCode: status = 0, headers: given } = response;
        text(response).then((read) => resolve({ status, headers: given, body: read }), reject);
      });
      asked.end(body);
    });
    this.#keep(url.origin, answer.headers['set-cookie'] ?? []);
    return { url, ...answer };
  }

  /** @returns the page behind all redirections that `stop` does not stop at */
  async follow(address: string | URL, stop: (url: URL) => boolean = () => false): Promise<Page> {
    let page = await this.visit(address);
    for (let step = 0; page.status >= 300 && page.status < 400; step++) {
      assert.ok(step < 20, 'sent round and round');
      const next = new URL(page.headers.location ?? '', page.url);
      if (stop(next)) return { ...page, url: next };
      page = await this.visit(next);
    }
    return page;
  }

  #keep(origin: string, lines: readonly string[]): void {
    const jar = this.#cookies.get(origin) ?? new Map<string, string>();
    this.#cookies.set(origin, jar);
    for (const line of lines) {
      const [pair = ''] = line.split(';');
      const [name, value] = [pair.replace(/=.*$/s, ''), pair.replace(/^[^=]*=/, '')];
      if (/; *max-age=0/i.test(line) || /expires=Thu, 01 Jan 1970/i.test(line)) jar.delete(name);
      else jar.set(name, value);
    }
  }
}

function encode(form: NonNullable<Visit['form']>): string {
  const fields = new URLSearchParams();
  for (const [name, values] of Object.entries(form))
    for (const value of [values].flat()) fields.append(name, value);
  return fields.toString();
}
