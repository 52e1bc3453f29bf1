import { match, type MatchFunction } from 'path-to-regexp';
import type { Method } from './operation.js';

type Params = Partial<Record<string, string | string[]>>;
type Route<T> = {
  readonly method: Method;
  readonly matches: MatchFunction<Params>;
  readonly operation: T;
};
/** Its path as it is below the mount, with the mount before it. */
type Addressed<T> = { readonly method: Method; readonly path: string; readonly operation: T };

export type FoundOperation<T> = {
  readonly operation: T;
  readonly params: Readonly<Record<string, string>>;
};

/**
 * Finds the operation for a method and a path, as express would: by its own matcher, the first that fits. A request is
 * compared only with those whose paths begin as its own does.
 */
export class OperationTable<T> {
  readonly #byStart = new Map<string, Route<T>[]>();
  readonly #mostElements: number;

  constructor(operations: readonly Addressed<T>[]) {
    const starts = new Set(operations.map(({ path }) => startOf(path)));
    this.#mostElements = Math.max(0, ...[...starts].map(elementsOf));
    for (const start of starts)
      this.#byStart.set(
        start,
        operations
          .filter(({ path }) => start === startOf(path) || start.startsWith(`${startOf(path)}/`))
          .map(({ method, path, operation }) => ({
            ...{ method, operation },
            // a slash at the end makes no difference
            matches: match<Params>(path.replace(/\/+$/, ''), {
              sensitive: true,
              decode: decodeURIComponent,
            }),
          })),
      );
  }

  /** @throws `URIError` for a path that is not URL encoded text */
  find(method: string | undefined, path: string): FoundOperation<T> | undefined {
    const wanted = method === 'HEAD' ? 'GET' : method;
    for (const route of this.#routesFor(path)) {
      if (route.method !== wanted) continue;
      const found = route.matches(path);
      if (found) return { operation: route.operation, params: joined(found.params) };
    }
    return undefined;
  }

  /** Those of the longest beginning that fits: it has those of all shorter ones. */
  #routesFor(path: string): readonly Route<T>[] {
    let routes: readonly Route<T>[] = this.#byStart.get('') ?? [];
    let end = 0;
    for (let elements = 0; elements < this.#mostElements && end < path.length; elements++) {
      const next = path.indexOf('/', end + 1);
      end = next < 0 ? path.length : next;
      routes = this.#byStart.get(path.slice(0, end)) ?? routes;
    }
    return routes;
  }
}

/** The elements that are the same in each path that fits. */
function startOf(path: string): string {
  return /^(?:\/[\w.-]+(?=\/|$))*/.exec(path)?.[0] ?? '';
}

function elementsOf(start: string): number {
  return start.split('/').length - 1;
}

/** What stands for several elements has the slashes between them. */
function joined(params: Params): Record<string, string> {
  const all: Record<string, string> = {};
  for (const name in params) {
    const value = params[name];
    if (value !== undefined) all[name] = typeof value === 'string' ? value : value.join('/');
  }
  return all;
}
